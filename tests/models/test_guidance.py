"""Classifier-free guidance against its formula, and how it fits into a program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch.core.process import edm
from jaxsearch.core.types import Denoiser, Prediction
from jaxsearch.models.guidance import classifier_free_guidance

NULL = {"label": np.float32(-1.0), "words": np.full(3, 0.5, np.float32)}


def _apply(params, x, t, cond):
    shift = jnp.sum(cond["words"], axis=1) * jnp.exp(cond["label"])
    x0 = jnp.tanh(params["weight"] * x + shift[:, None])
    return Prediction(x0, (x - x0) / t[:, None])


def _denoiser(weight: float = 0.7) -> Denoiser:
    params = {"weight": jnp.float32(weight)}
    return Denoiser(apply=_apply, process=edm(), shape=(5,), params=params)


def _inputs(num: int = 6):
    rng = np.random.default_rng(1)
    x, words = rng.normal(size=(num, 5)), rng.normal(size=(num, 3))
    cond = {"label": jnp.linspace(0, 1, num), "words": jnp.asarray(words, jnp.float32)}
    return jnp.asarray(x, jnp.float32), jnp.linspace(0.1, 3.0, num), cond


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_extrapolates_from_the_unconditional_prediction(scale):
    x, t, cond = _inputs()
    without = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (6, *np.shape(leaf))), NULL)
    conditional, unconditional = _denoiser()(x, t, cond), _denoiser()(x, t, without)
    guided = classifier_free_guidance(_denoiser(), scale=scale, null=NULL)(x, t, cond)
    for name in Prediction._fields:
        yes, no = getattr(conditional, name), getattr(unconditional, name)
        np.testing.assert_allclose(getattr(guided, name), no + scale * (yes - no), atol=1e-5)


def test_latent_is_still_made_of_both_predictions():
    x, t, cond = _inputs()
    guided = classifier_free_guidance(_denoiser(), scale=4.0, null=NULL)(x, t, cond)
    np.testing.assert_allclose(guided.x0 + t[:, None] * guided.eps, x, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_only_the_first_channels_are_guided(channels):
    """The rest is the conditional prediction, and `x` is still made of both parts.

    Kills: the last channels guided; the rest unconditional; `x0` guided and `eps` not.
    """
    x, t, cond = _inputs()
    every = classifier_free_guidance(_denoiser(), scale=4.0, null=NULL)(x, t, cond)
    found = classifier_free_guidance(_denoiser(), scale=4.0, null=NULL, guided_channels=channels)
    conditional, found = _denoiser()(x, t, cond), found(x, t, cond)
    for name in Prediction._fields:
        guided, yes, part = (getattr(p, name) for p in (every, conditional, found))
        np.testing.assert_array_equal(part[:, :channels], guided[:, :channels])
        np.testing.assert_allclose(part[:, channels:], yes[:, channels:], atol=1e-6)
    np.testing.assert_allclose(found.x0 + t[:, None] * found.eps, x, atol=1e-5)


@pytest.mark.parametrize("channels", [0, 6, 2.5, True])
def test_channels_that_are_not_there_are_named(channels):
    """Also where the scale is 1, so that a setting that cannot be honoured never passes."""
    for scale in (1.0, 2.0):
        with pytest.raises(ValueError, match=f"guided_channels is {channels}"):
            classifier_free_guidance(_denoiser(), scale=scale, null=NULL, guided_channels=channels)


def test_costs_two_passes_and_scale_one_costs_one():
    denoiser = _denoiser()
    assert classifier_free_guidance(denoiser, scale=2.0, null=NULL).passes == 2
    twice = classifier_free_guidance(denoiser, scale=2.0, null=NULL)
    assert classifier_free_guidance(twice, scale=2.0, null=NULL).passes == 4
    assert classifier_free_guidance(denoiser, scale=1.0, null=NULL) is denoiser
    assert classifier_free_guidance(denoiser, scale=jnp.float32(1.0), null=NULL).passes == 2


def test_scales_and_weights_share_one_program():
    traces = []

    @jax.jit
    def run(denoiser, inputs):
        traces.append(None)
        return denoiser(*inputs).x0

    one = classifier_free_guidance(_denoiser(0.7), scale=2.0, null=NULL)
    two = classifier_free_guidance(_denoiser(0.2), scale=5.0, null=NULL)
    assert not np.allclose(run(one, _inputs()), run(two, _inputs()))
    assert len(traces) == 1


def test_scale_may_be_traced():
    inputs = _inputs()

    def loss(scale):
        return jnp.sum(classifier_free_guidance(_denoiser(), scale=scale, null=NULL)(*inputs).x0)

    # The prediction is linear in the scale, so the slope is the difference of two values.
    slope = jax.jit(jax.grad(loss))(jnp.float32(2.0))
    np.testing.assert_allclose(slope, loss(3.0) - loss(2.0), rtol=1e-3)


def test_a_sharded_batch_doubles_without_communication():
    x, t, cond = _inputs(8)
    mesh = Mesh(np.array(jax.devices()), ("particle",))
    sharding = NamedSharding(mesh, PartitionSpec("particle"))
    inputs = jax.device_put((x, t, cond), sharding)
    guided = classifier_free_guidance(_denoiser(), scale=2.0, null=NULL)
    run = jax.jit(lambda d, i: d(*i), out_shardings=sharding)
    program = run.lower(guided, inputs).compile().as_text()
    for word in ("all-to-all", "all-gather", "collective-permute", "all-reduce"):
        assert word not in program
    np.testing.assert_allclose(run(guided, inputs).x0, guided(x, t, cond).x0, atol=1e-6)
