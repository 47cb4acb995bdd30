"""What is drawn from keys: the numbers of JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.random import fold_in, normal, stored, uniform


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("shape", [(), (1,), (7, 5, 3)])
@pytest.mark.parametrize(
    ("drawn", "of_jax"), [(normal, jax.random.normal), (uniform, jax.random.uniform)]
)
def test_numbers_are_those_of_jax(lead, shape, drawn, of_jax):
    """Bit by bit, of every key by itself.

    Kills: a wrong rotation or parity; words of the key exchanged; a count of what is drawn in the
    place of a number's own; 24 bits for 23.
    """
    keys = jax.random.split(jax.random.key(3), lead) if lead else jax.random.key(3)
    for _ in lead:
        of_jax = jax.vmap(of_jax, in_axes=(0, None))
    numbers = drawn(keys, math.prod(shape)).reshape(keys.shape + shape)
    np.testing.assert_array_equal(numbers, of_jax(keys, shape))


@pytest.mark.parametrize("number", [0, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_folded_keys_are_those_of_jax(number):
    """One key by many numbers, many by one, and one by one; the words too, in their order.

    Kills: words of the key exchanged, or those of the counter; a number's sign or upper bits.
    """
    key, keys = jax.random.key(5), jax.random.split(jax.random.key(6), 3)
    numbers = jnp.asarray([number, 3, 2**32 - 2], jnp.uint32)

    def words(some):
        return np.asarray(jax.random.key_data(some))

    one = jax.random.fold_in
    np.testing.assert_array_equal(words(fold_in(key, number)), words(one(key, number)))
    np.testing.assert_array_equal(
        words(fold_in(key, numbers)), words(jax.vmap(one, (None, 0))(key, numbers))
    )
    np.testing.assert_array_equal(
        words(fold_in(keys, number)), words(jax.vmap(one, (0, None))(keys, number))
    )
    np.testing.assert_array_equal(
        words(jax.jit(jax.vmap(fold_in))(keys, numbers)), words(jax.vmap(one)(keys, numbers))
    )
    np.testing.assert_array_equal(words(fold_in(key, jnp.int32(-1))), words(one(key, 2**32 - 1)))
    # As `split` names them, so that one key is only ever folded or only ever split.
    np.testing.assert_array_equal(
        words(fold_in(key, jnp.arange(4))), words(jax.random.split(key, 4))
    )


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


@pytest.mark.parametrize("drawn", [fold_in, normal, uniform])
def test_other_kinds_of_keys_are_refused(drawn):
    with pytest.raises(ValueError, match=r"'rbg'.*impl='threefry2x32'"):
        drawn(jax.random.key(0, impl="rbg"), 2)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_what_is_stored_is_joined_to_nothing(platform, loops):
    """On CPU, where XLA drops barriers before it joins operations, it goes through a loop.

    Kills: a loop where a host would wait for it; nothing at all.
    """
    program = jax.jit(lambda x: stored(jnp.sin(x)) + 1)
    lowered = program.trace(jnp.ones(3)).lower(lowering_platforms=(platform,))
    assert ("while" in lowered.as_text()) == loops
    assert "optimization_barrier" in lowered.as_text()
    if platform == "cpu":
        assert " while(" in lowered.compile().as_text()
    np.testing.assert_array_equal(stored(jnp.arange(3.0)), [0, 1, 2])
