"""What a search of a published model costs is known from its configs and tokenizers alone."""

from __future__ import annotations

import jax
import pytest

from jaxsearch import cli
from jaxsearch.core.plan import plan
from jaxsearch.runs.arguments import parse
from jaxsearch.runs.build import build
from tests.models import pipelines

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

FAMILIES = {
    "pixart_sigma": lambda folder: pipelines.pixart_sigma(folder),
    "flux": lambda folder: pipelines.flux(folder),
    "stable_diffusion_3": lambda folder: pipelines.stable_diffusion_3(folder),
    "stable_diffusion": lambda folder: pipelines.stable_diffusion(1, folder),
    "stable_diffusion_xl": lambda folder: pipelines.stable_diffusion_xl(folder),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_reads_no_weights(family, tmp_path, monkeypatch, capsys):
    """Kills: a weight that is left out of the shapes, or of another type; a file that is opened."""
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    folder = FAMILIES[family](tmp_path)[1]
    arguments = ["--model", str(folder), "--model.dtype", "bfloat16", "--prompts", "the cat", "hat"]
    arguments += ["--schedule.num_steps", "3", "--searcher", "best_of_n"]
    if family == "flux":  # whose size is in no config
        arguments += ["--model.height", "16", "--model.width", "16"]
    config = parse(arguments, command="plan", description="").config
    built = build(config)
    wanted = plan(built.searcher, built.problem, built.prompts)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    monkeypatch.setattr(jax, "device_put", None)  # nor is anything put onto a device
    bare = build(config, shapes=True)
    leaves = jax.tree.leaves(bare.problem.denoiser.params)
    assert sum(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves) > 10
    assert plan(bare.searcher, bare.problem, bare.prompts) == wanted
    monkeypatch.undo()
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    assert cli.main(["plan", *arguments]) == 0
    assert "network passes" in capsys.readouterr().out
    assert cli.main(["search", *arguments, "--output", str(tmp_path / "run")]) == 2
    assert "safetensors" in capsys.readouterr().err
