"""The training of the scenes' networks: what is minimised, and how a killed run goes on."""

from __future__ import annotations

import dataclasses

import jax
import pytest
from flax import nnx

from experiments.train_scenes import LOSSES, NAMES, Optimisation, Training, train_all
from jaxsearch.models.loading import parameters
from jaxsearch.zoo.scenes.data import HELD_OUT, pool
from jaxsearch.zoo.scenes.load import build, weights

TINY = Training(
    taste=Optimisation(steps=4, batch=8, learning_rate=1e-3, weight_decay=1e-2),
    num_scenes=16,
    chunk=2,
)


@pytest.fixture(autouse=True)
def _promotion():
    """Optax mixes types, which the tests' strict JAX refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.mark.parametrize("name", NAMES)
def test_the_package_has_what_was_minimised(name):
    """Kills: a loss of another network; captions, counts or what pleases of another scene."""
    settings = dataclasses.replace(getattr(Training(), name), batch=32)
    loss = jax.jit(LOSSES[name](settings, Training()))
    scenes, key = pool(64, seed=HELD_OUT), jax.random.key(0)
    fresh = float(loss(parameters(build(name, nnx.Rngs(0))), key, scenes))
    learnt = float(loss(weights(name), key, scenes))
    assert learnt < 0.02 * fresh
    if name not in ("attributes", "taste"):  # which read no captions
        mistold = scenes._replace(tokens=scenes.tokens[::-1])
        assert float(loss(weights(name), key, mistold)) > 1.5 * learnt


def test_a_killed_run_goes_on_to_the_same_files(tmp_path):
    def kill(name, step):
        if step == 2:
            raise Killed

    train_all(TINY, tmp_path / "whole", only=("taste",))
    with pytest.raises(Killed):
        train_all(TINY, tmp_path / "broken", only=("taste",), after_chunk=kill)
    seen = []
    train_all(
        TINY, tmp_path / "broken", only=("taste",), after_chunk=lambda _, step: seen.append(step)
    )
    assert seen == [4], "it began anew"
    files = [tmp_path / folder / "taste.safetensors" for folder in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(ValueError, match=r"config\.json is of another configuration"):
        train_all(Training(), tmp_path / "whole", only=("taste",))


def test_an_unknown_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no network 'seed': there are large, small, contrastive"):
        train_all(TINY, tmp_path / "none", only=("seed",))
    assert not (tmp_path / "none").exists()
