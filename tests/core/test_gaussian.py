"""Gaussians of keys: those of JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.gaussian import normal


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("shape", [(), (1,), (7, 5, 3)])
def test_they_are_those_of_jax(lead, shape):
    """Bit by bit, of every key by itself.

    Kills: a wrong rotation or parity; words of the key exchanged; a count of what is drawn in the
    place of a number's own; 24 bits for 23.
    """
    keys = jax.random.split(jax.random.key(3), lead) if lead else jax.random.key(3)
    of_jax = jax.random.normal
    for _ in lead:
        of_jax = jax.vmap(of_jax, in_axes=(0, None))
    drawn = normal(keys, math.prod(shape)).reshape(keys.shape + shape)
    np.testing.assert_array_equal(drawn, of_jax(keys, shape))


def test_they_are_the_same_under_transformations():
    keys = jax.random.split(jax.random.key(4), (3, 4))
    mapped = jax.jit(jax.vmap(lambda row: normal(row, 6)))(keys)
    np.testing.assert_array_equal(mapped, normal(keys, 6))


def test_all_of_float32_are_reached():
    """The tails: the largest of 2^22 numbers, beside JAX's."""
    most = 1 << 22
    drawn = normal(jax.random.key(0), most)
    assert float(jnp.max(jnp.abs(drawn))) > 4.8
    np.testing.assert_array_equal(drawn, jax.random.normal(jax.random.key(0), (most,)))


def test_other_kinds_of_keys_are_refused():
    with pytest.raises(ValueError, match=r"'rbg'.*impl='threefry2x32'"):
        normal(jax.random.key(0, impl="rbg"), 2)
