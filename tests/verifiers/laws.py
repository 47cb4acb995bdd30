"""What holds for every verifier of published weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.gradients import differentiable
from jaxsearch.core.types import Verifier
from tests.jitted import called


def assorted(height: int, width: int, channels: int = 3) -> jax.Array:
    """[6,h,w,c]: black, white, and noise of several strengths."""
    noise = jax.random.uniform(jax.random.key(0), (4, height, width, channels))
    ends = jnp.stack([jnp.zeros_like(noise[0]), jnp.ones_like(noise[0])])
    return jnp.concatenate([ends, noise * jnp.array([1, 0.7, 0.4, 0.1])[:, None, None, None]])


def check_laws(verifier: Verifier, num_labels: int, sizes=((20, 20), (17, 31))) -> None:
    """Shapes, finite scores, no company in a batch, one program, NaN in and out."""
    traces = []

    @jax.jit
    def score(verifier, images, label):
        traces.append(images.shape)
        return verifier(images, {"label": label})

    for height, width in sizes:
        images, label = assorted(height, width), jnp.arange(6) % num_labels
        scores = score(verifier, images, label)
        assert scores.shape == (6,)
        assert scores.dtype == jnp.float32
        assert np.isfinite(scores).all()
        assert ((scores >= 0) & (scores <= 1)).all()
        assert len({round(float(one), 6) for one in scores}) > 3  # it looks at images and labels
        order = jnp.array([3, 1, 5, 0, 2, 4])
        np.testing.assert_allclose(
            score(verifier, images[order], label[order]), scores[order], rtol=1e-4, atol=1e-7
        )
        bad = images.at[2, 0, 0, 0].set(jnp.nan)
        found = score(verifier, bad, label)
        assert np.isnan(found).tolist() == [False, False, True, False, False, False]
        np.testing.assert_allclose(found[3:], scores[3:], rtol=1e-4, atol=1e-7)
    assert len(traces) == len(sizes)


def check_gradient(of_levels: Verifier, of_floats: Verifier, size=(20, 20)) -> None:
    """Levels refuse a gradient by name; floats have one that leads upwards, and the same scores."""
    images = assorted(*size)[2:]
    context = {"label": jnp.zeros(4, jnp.int32)}

    def total(images, verifier):
        return jnp.sum(differentiable(verifier(images, context), images, "it"))

    with pytest.raises(ValueError, match="it has no gradient"):
        jax.grad(total)(images, of_levels)
    gradient = jax.jit(jax.grad(total))(images, of_floats)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()
    scores = called(of_floats, images, context)
    length = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
    better = called(of_floats, images + 1e-2 * gradient / length, context)
    assert (better > scores).all()
    np.testing.assert_allclose(scores, called(of_levels, images, context), atol=0.02)
