"""Resampling: unbiased counts, their bounds, and the edges of float32."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.resampling import RESAMPLING, effective_sample_size, normalised, pick

WEIGHTS = np.asarray([0.08, 0.0, 0.37, 0.25, 0.0, 0.3, 0.0])
REPEATS = 4000
every_scheme = pytest.mark.parametrize("scheme", list(RESAMPLING))


def log_weights(weights) -> jax.Array:
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.asarray(weights, np.float64)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _resample(scheme: str, keys: jax.Array, logs: jax.Array) -> jax.Array:
    return jax.vmap(RESAMPLING[scheme], in_axes=(0, None))(keys, logs)


def counts(scheme: str, logs: jax.Array, repeats: int = REPEATS) -> np.ndarray:
    """Descendants [repeats, K] of each particle."""
    keys = jax.random.split(jax.random.key(5), repeats)
    ancestors = _resample(scheme, keys, logs)
    assert ancestors.dtype == jnp.int32
    return np.stack([np.bincount(row, minlength=logs.shape[0]) for row in np.asarray(ancestors)])


@every_scheme
def test_counts_are_unbiased(scheme):
    """K*w descendants on average, whatever the weights sum to, and none without a weight.

    Kills: weights ignored; weights used without being normalised; shares shifted by a particle.
    """
    size = len(WEIGHTS)
    found = counts(scheme, log_weights(WEIGHTS) + 3.0)
    assert np.all(found.sum(axis=1) == size)
    assert np.all(found[:, WEIGHTS == 0] == 0)
    error = found.std(axis=0) / np.sqrt(REPEATS)
    assert np.all(np.abs(found.mean(axis=0) - size * WEIGHTS) <= 4 * error + 1e-6)


def test_each_scheme_varies_as_it_should():
    """Kills: one draw for many, or many for one; residual without its certain copies."""
    size, expected = len(WEIGHTS), len(WEIGHTS) * WEIGHTS
    found = {scheme: counts(scheme, log_weights(WEIGHTS)) for scheme in RESAMPLING}
    low, high = np.floor(expected), np.ceil(expected)
    assert np.all((found["systematic"] >= low) & (found["systematic"] <= high))
    assert np.all(np.abs(found["stratified"] - expected) < 2)
    assert np.all(found["residual"] >= low)
    assert np.any(found["residual"] > high)
    variance = found["multinomial"].var(axis=0)
    np.testing.assert_allclose(variance, size * WEIGHTS * (1 - WEIGHTS), rtol=0.15)
    left = expected - low
    variance = found["residual"].var(axis=0)
    num = left.sum()
    np.testing.assert_allclose(variance, left * (1 - left / num), rtol=0.15)


@every_scheme
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_equal_weights(scheme, size):
    """All schemes but the multinomial leave equal weights alone.

    Kills: K*w just below a whole number rounded down; shares that drift with the sum.
    """
    for logs in (jnp.zeros(size), jnp.full((size,), -1e30), jnp.full((size,), -jnp.inf)):
        found = counts(scheme, logs, 20)
        assert np.all(found.sum(axis=1) == size)
        if scheme != "multinomial":
            # A position on the border of two shares may fall to either side.
            assert np.mean(found != 1) <= (0.02 if size > 100 else 0.0)


@every_scheme
def test_one_weight_takes_all(scheme):
    """Also beside weights that are nothing next to it, at either end, and after a short sum.

    Kills: the last particle taken where the sum of weights does not reach 1.
    """
    for heavy in (0, 2, 4):
        for rest in (-jnp.inf, -1e30, -200.0):
            logs = jnp.full((5,), rest).at[heavy].set(7.0)
            assert np.all(counts(scheme, logs, 20)[:, heavy] == 5)
    # 3000 equal weights whose float32 sum is not 1, then particles of no weight at all.
    logs = jnp.concatenate([jnp.zeros(2999), jnp.full((3000,), -jnp.inf)])
    assert np.all(counts(scheme, logs, 20)[:, 2999:] == 0)


def test_positions_on_the_border_of_shares():
    """Kills: a first or a last particle of no weight that is picked at 0 or at 1."""
    found = pick(jnp.asarray([0.0, 1.0, 0.0, 3.0, 0.0]), jnp.asarray([0.0, 0.25, 0.999, 1.0]))
    np.testing.assert_array_equal(found, [1, 3, 3, 3])


def test_normalised_weights_and_their_sum():
    logs = log_weights([0.2, 0.0, 0.6])
    found, total = normalised(logs)
    np.testing.assert_allclose(np.exp(found), [0.25, 0.0, 0.75], rtol=1e-6)
    np.testing.assert_allclose(total, np.log(0.8), rtol=1e-5)
    found, total = normalised(jnp.full((4,), -jnp.inf))
    np.testing.assert_allclose(np.exp(found), 0.25, rtol=1e-6)
    assert np.isneginf(total)


def test_effective_sample_size():
    """Kills: weights not normalised first."""
    for weights, expected in (
        ([1, 1, 1, 1], 4.0),
        ([0, 5, 0], 1.0),
        ([0, 0], 2.0),
        ([3, 1], 1.6),
    ):
        np.testing.assert_allclose(
            effective_sample_size(log_weights(weights) - 40.0), expected, rtol=1e-5
        )
