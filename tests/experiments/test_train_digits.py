"""A training that was killed goes on to the same weights, bit for bit."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from experiments import train_digits
from experiments.train_digits import Optimisation, Training, classifier_loss, train, train_all
from jaxsearch.models.loading import load_safetensors, parameters
from jaxsearch.zoo.digits.data import splits
from jaxsearch.zoo.digits.load import abstract, build

TINY = Training(
    classifier=Optimisation(steps=4, batch=8, learning_rate=1e-3, weight_decay=1e-2), chunk=2
)


@pytest.fixture(autouse=True)
def _promotion():
    """Optax mixes types, which the tests' strict JAX refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def _equal(first, second) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


def _train(folder, after_chunk=lambda name, step: None, chunk=2):
    digits = splits().judge
    loss = classifier_loss("classifier", TINY)
    training = dataclasses.replace(TINY, chunk=chunk)
    settings = training.classifier
    return train("classifier", loss, digits, settings, training, folder, after_chunk=after_chunk)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    seen = []

    def note(name, step):
        seen.append(step)

    def kill(name, step):
        if step == 2:
            raise Killed

    whole = _train(tmp_path / "whole", note)
    assert seen == [2, 4]
    with pytest.raises(Killed):
        _train(tmp_path / "broken", kill)
    resumed = _train(tmp_path / "broken", note)
    assert seen == [2, 4, 4], "it began anew"
    assert _equal(resumed, whole)
    assert not _equal(whole, parameters(build("classifier", nnx.Rngs(0)))), "nothing was learnt"


def test_how_often_it_is_stored_has_no_effect(tmp_path):
    assert _equal(_train(tmp_path / "often"), _train(tmp_path / "once", chunk=4))


def test_stores_weights_that_fit_and_refuses_another_configuration(tmp_path, monkeypatch):
    fresh = {name: parameters(build(name, nnx.Rngs(1))) for name in train_digits.NAMES}
    monkeypatch.setattr(train_digits, "train", lambda name, *args, **kwargs: fresh[name])
    train_all(TINY, tmp_path)
    for name, params in fresh.items():
        stored = load_safetensors(abstract(name), tmp_path / f"{name}.safetensors")
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), stored, params
        )
    train_all(TINY, tmp_path)
    with pytest.raises(ValueError, match=r"config\.json is of another configuration"):
        train_all(Training(), tmp_path)
