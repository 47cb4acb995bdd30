"""Runs whose devices share the weights: read part by part, they find what they find otherwise."""

from __future__ import annotations

import contextlib
import json

import jax
import numpy as np
import pytest

from jaxsearch import cli
from jaxsearch.models.adm import AdmConfig
from jaxsearch.models.converted import write_converted
from jaxsearch.models.edm_folder import EdmConfig, Preconditioning, abstract_network
from jaxsearch.models.state_dict import wanted_shapes
from jaxsearch.parallel.devices import part_of
from jaxsearch.runs import build, run

CONFIG = EdmConfig(
    network=AdmConfig(
        image_size=8, model_channels=64, channel_mult=(1,), num_res_blocks=1,
        attention_resolutions=(8,), head_channels=64, num_classes=7,
    ),
    preconditioning=Preconditioning(kind="edm"),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)
    module, rng = abstract_network(CONFIG), np.random.default_rng(0)
    tensors = {
        key: (0.05 * rng.normal(size=shape)).astype(np.float32)
        for key, shape in wanted_shapes(module).items()
    }
    write_converted("model", CONFIG.to_json(), module, tensors, num_classes=CONFIG.num_classes)
    return tmp_path


def test_scores_are_those_of_weights_placed_afterwards(folder, monkeypatch):
    """Kills: a run, or its search for a size, that loads without a mesh."""
    given, divide = [], run.divided

    def watched(tree, mesh):
        given.append((tree, mesh))
        return divide(tree, mesh)

    monkeypatch.setattr(run, "divided", watched)
    fixed = ["--model", "model", "--model-devices", "2", "--prompts", "3", "--quiet"]
    fixed += ["--searcher", "best_of_n", "--budget", "8", "--schedule.num_steps", "2"]
    assert cli.main(["search", *fixed, "--output", "read"]) == 0
    monkeypatch.setattr(build, "loading_onto", lambda mesh: contextlib.nullcontext())
    assert cli.main(["search", *fixed, "--output", "placed"]) == 0
    read, placed = (
        {**json.loads((folder / name / "records.jsonl").read_text()), "seconds": None}
        for name in ("read", "placed")
    )
    assert read == placed
    recipes = [(folder / name / "recipes.jsonl").read_bytes() for name in ("read", "placed")]
    assert recipes[0] == recipes[1]
    (first, mesh), (second, _) = given
    large = [leaf for leaf in jax.tree.leaves(first.denoiser.params) if leaf.size > 2**12]
    assert len(large) > 5
    assert all(leaf.sharding == part_of(leaf, mesh) for leaf in large)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(second.denoiser.params))
