"""Imports go down the floors of DESIGN.md only, and nothing in the package needs PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxsearch"

# What each part may import of the package; the longest matching prefix counts.
MAY_IMPORT = {
    "core.types": [],
    "core.checks": [],
    "core.reuse": [],
    "core.random": ["core.types"],
    "core.noise": ["core.types", "core.checks", "core.random"],
    "core.aggregate": ["core.types", "core.checks"],
    "core.segments": ["core.types", "core.checks", "core.noise"],
    "core.resampling": ["core.types", "core.random"],
    "core.process": ["core.types", "core.checks", "core.reuse"],
    "core.prediction": ["core.types"],
    "core.gradients": ["core.types", "core.noise"],
    "core": ["core"],
    "solvers": [
        *("core.types", "core.checks", "core.reuse", "core.prediction", "core.process"),
        "solvers",
    ],
    "searchers": [
        *("core.types", "core.checks", "core.reuse"),
        *("core.noise", "core.random", "core.segments", "core.resampling"),
        "searchers",
    ],
    "models": ["core.types", "core.checks", "core.prediction", "core.process", "models"],
    "metrics": ["core.types", "core.checks", "core.reuse", "metrics"],
    "verifiers": ["core.types", "core.checks", "core.reuse", "metrics", "models", "verifiers"],
    "graders": ["core", "graders"],
    "zoo": ["core", "solvers", "metrics", "models", "verifiers", "zoo"],
    "runs": [
        *("core", "solvers", "searchers", "metrics", "models", "verifiers", "zoo", "parallel"),
        *("graders", "runs"),
    ],
    "sweeps": [
        *("core", "solvers", "searchers", "models", "verifiers", "zoo", "parallel"),
        *("graders", "runs", "sweeps"),
    ],
}
FORBIDDEN_EVERYWHERE = {"torch", "diffusers", "transformers", "tests", "experiments"}
FLAX_FREE = ("core", "solvers", "searchers", "metrics")
OPTAX_IN = ("searchers",)


def modules() -> dict[str, set[str]]:
    """Dotted module -> everything it imports anywhere in its file, dotted."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        imports = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imports |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                imports.add(node.module or "")
                imports |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = imports
    return found


def within(name: str, prefixes: list[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize(("name", "imports"), sorted(modules().items()))
def test_imports_go_down_only(name, imports):
    rule = max((p for p in MAY_IMPORT if within(name, [p])), key=len, default=None)
    tops = {imported.split(".")[0] for imported in imports}
    assert not tops & FORBIDDEN_EVERYWHERE
    if within(name, list(FLAX_FREE)):
        assert "flax" not in tops
    if not within(name, list(OPTAX_IN)):
        assert "optax" not in tops
    if rule is None:
        return
    own = {i.removeprefix("jaxsearch.") for i in imports if i.startswith("jaxsearch.")}
    allowed = [*MAY_IMPORT[rule], name]
    # `from jaxsearch.core import types` shows as `core` and `core.types`.
    parents = {i for i in own if any(other.startswith(i + ".") for other in own)}
    assert all(within(i, allowed) for i in own - parents), f"{name} imports {sorted(own)}"


def test_the_rules_can_fail():
    found = modules()
    assert len(found) > 20
    assert "jaxsearch.core.types" in found["searchers.best_of_n"]
    assert not within("core.search", MAY_IMPORT["searchers"])
    assert not within("models.edm", MAY_IMPORT["searchers"])


def test_import_is_light():
    """`import jaxsearch` brings in no heavy library that only some users need."""
    heavy = ["torch", "diffusers", "transformers", "orbax", "matplotlib", "jsonargparse", "sklearn"]
    code = f"import sys, jaxsearch; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_public_names_exist():
    import jaxsearch

    assert sorted(jaxsearch.__all__) == sorted(set(jaxsearch.__all__))
    for name in jaxsearch.__all__:
        assert hasattr(jaxsearch, name), name
