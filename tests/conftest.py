"""JAX as strict as it gets, on eight virtual CPU devices."""

from __future__ import annotations

import gc
import itertools
import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Before JAX is imported. Machine code is not optimised, and loops are fused the former way where
# jaxlib still can: tests compile far more than they run. Bits that hang on how users' programs are
# fused are compared by `test_as_users_compile.py`, which sets the variable.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        *(
            []
            if "JAXSEARCH_AS_USERS_COMPILE" in os.environ
            else [
                "--xla_backend_optimization_level=0",
                "--xla_llvm_disable_expensive_passes=true",
                # One library of code a program: each has memory maps of its own, see below.
                "--xla_cpu_parallel_codegen_split_count=1",
                *(
                    # Later ones do not know the flag, and XLA ends a process that gives it.
                    ["--xla_cpu_use_fusion_emitters=false"]
                    if version("jaxlib").startswith("0.10.")
                    else []
                ),
            ]
        ),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nothing of a test is found by another, or by its next run.
os.environ["JAXSEARCH_TEXT_CACHE"] = "off"

import jax
import pytest

from tests.thorough import THOROUGH

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Many tests compile the same program, in several workers: the first to do so leaves it to the rest,
# and to the next run.
_PROGRAMS = Path(__file__).parent.parent / ".pytest_cache" / "programs"
jax.config.update("jax_compilation_cache_dir", str(_PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


_MAPS, _MEMORY = Path("/proc/self/maps"), Path("/proc/meminfo")
_TESTS = itertools.count()


def _programs_are_too_many() -> bool:
    """Whether they near the maps that a process may have (65530), or a fifth of memory is left."""
    if not (_MAPS.exists() and _MEMORY.exists()):
        return False
    sizes = dict(re.findall(r"(\w+): +(\d+)", _MEMORY.read_text()))
    short = int(sizes["MemAvailable"]) < int(sizes["MemTotal"]) / 5
    return short or _MAPS.read_bytes().count(b"\n") > 55_000


AS_USERS_COMPILE = "JAXSEARCH_AS_USERS_COMPILE"
as_users_compile = pytest.mark.skipif(
    AS_USERS_COMPILE not in os.environ, reason="test_as_users_compile.py runs it"
)
"""Of a test whose bits differ where programs are compiled quickly."""


# Traces are many small objects, among which the collector would look for garbage again and again.
gc.freeze()
gc.set_threshold(100_000, 50, 20)


@pytest.fixture(autouse=True)
def _programs_are_let_go() -> Iterator[None]:
    """Programs of hundreds of tests need memory, and more maps than a process may have."""
    yield
    # To read the maps is slow, so not after every test.
    if next(_TESTS) % 20 == 19 and _programs_are_too_many():
        jax.clear_caches()
        gc.collect()


_THOROUGH = re.compile("|".join(THOROUGH))
_BY_FILE = re.compile("tests/(experiments|models|reports|runs|zoo)/|tests/test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs a file whose references and programs its tests share (`--dist loadgroup`)."""
    for item in items:
        if _THOROUGH.search(f"{item.path.stem}::{item.name}"):
            item.add_marker(pytest.mark.thorough)
        if _BY_FILE.search(item.path.as_posix()):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
