"""What is drawn from PRNG keys: the numbers of `jax.random`, bit by bit, in less time on CPU.

There JAX compiles its generator as a loop over the rounds, so that the numbers of every round go
through memory and nothing joins the loop: to fold a handful of keys takes eighty operations. Here
the rounds are written out, in one kernel, which takes less time to compile too.

Letters: `[...]` the keys, `n` numbers of each.

Reference: Salmon, Moraes, Dror and Shaw, *Parallel random numbers: as easy as 1, 2, 3*, 2011,
section 4.2 (Threefry), https://doi.org/10.1145/2063384.2063405. Counters are JAX's own, of
`jax_threefry_partitionable`: a number's is its place, so that it is the same however many there
are.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsearch.core.types import Array

KEY_KIND = "threefry2x32"
"""Of keys, as `jax.random.key` makes them by default."""

_PARITY = np.uint32(0x1BD11BDA)
"""Of the key schedule, for 32-bit words."""
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Of the rounds of two words, four at a time in turn."""
_ROUNDS = 20


def fold_in(keys: Array, numbers: Array | int) -> Array:
    """Keys [...] folded with numbers [...], broadcast against each other: `jax.random.fold_in`.

    Args:
        keys: typed, of JAX's default kind.
        numbers: integers, of which the lowest 32 bits count.

    Raises:
        ValueError: if keys are of another kind.
    """
    if isinstance(numbers, int):
        numbers = np.uint32(numbers % 2**32)  # type: ignore[assignment]
    folded = _fold_in(_words(keys), numbers)
    return jax.random.wrap_key_data(folded, impl=KEY_KIND)


def uniform(keys: Array, size: int) -> Array:
    """Numbers [..., n] in [0, 1) of keys [...], float32: of each key `jax.random.uniform`'s.

    Arguments and errors are those of `normal`.
    """
    return _uniform(_words(keys), size)


def normal(keys: Array, size: int) -> Array:
    """Standard Gaussians [..., n] of keys [...], float32: of each key `jax.random.normal`'s.

    Flat, and to be added up so: a loop over an innermost axis of a few channels, into which the
    kernel would be drawn, is not made into vectors.

    Args:
        keys: typed, of JAX's default kind.
        size: n, how many numbers each key stands for, fewer than 2^32.

    Raises:
        ValueError: if keys are of another kind: what those draw hangs on what is drawn beside it.
    """
    return _normal(_words(keys), size)


def stored(array: Array) -> Array:
    """The array, made once: a compiler would make it anew in every operation that reads it.

    Of numbers, and not to be differentiated: on CPU nothing leads back through it.
    """

    def through_a_loop(array: Array) -> Array:
        # On CPU barriers are gone before operations are joined, but a loop's operand is made before
        # it. That this one has no turns, which would change the array, cannot be seen. Elsewhere
        # the host would wait to learn it.
        turns = lax.optimization_barrier(np.int32(0))
        return lax.fori_loop(0, turns, lambda _, before: -before, array)

    return lax.platform_dependent(array, cpu=through_a_loop, default=lax.optimization_barrier)


def _words(keys: Array) -> Array:
    """The words [..., 2] of keys."""
    kind = str(jax.random.key_impl(keys))
    if kind != KEY_KIND:
        raise ValueError(
            f"keys are of kind {kind!r}, whose numbers hang on what is drawn beside them: make "
            f"them with jax.random.key(seed, impl={KEY_KIND!r})"
        )
    return jax.random.key_data(keys)


@jax.jit  # here and below: what is traced often is traced once for all
def _fold_in(words: Array, numbers: Array) -> Array:
    """The words [..., 2] of keys folded with numbers [...] of 32 bits."""
    place = jnp.asarray(numbers).astype(np.uint32)
    first, second, place = jnp.broadcast_arrays(words[..., 0], words[..., 1], place)
    one, two = _threefry(first, second, jnp.zeros_like(place), place)
    # Side by side by a select: a compiler joins it to the rounds, and would transpose a stack.
    shape = (*place.shape, 2)
    one, two = (jnp.broadcast_to(word[..., None], shape) for word in (one, two))
    return stored(jnp.where(jnp.arange(2) == 0, one, two))


@functools.partial(jax.jit, static_argnums=1)
def _uniform(words: Array, size: int) -> Array:
    """Numbers [..., n] in [0, 1) of the words [..., 2] of keys."""
    return stored(_unit(words, size))


@functools.partial(jax.jit, static_argnums=1)
def _normal(words: Array, size: int) -> Array:
    """Gaussians [..., n] of the words [..., 2] of keys."""
    least = np.nextafter(np.float32(-1), np.float32(0))
    between = lax.max(least, _unit(words, size) * (np.float32(1) - least) + least)
    return np.float32(math.sqrt(2)) * lax.erf_inv(between)


def _unit(words: Array, size: int) -> Array:
    """Numbers [..., n] in [0, 1) of the words [..., 2] of keys, 23 bits each."""
    shape = (*words.shape[:-1], size)
    first, second = (
        lax.broadcast_in_dim(words[..., i], shape, range(len(shape) - 1)) for i in (0, 1)
    )
    place = lax.broadcasted_iota(np.uint32, shape, len(shape) - 1)
    bits = lax.bitwise_xor(*_threefry(first, second, lax.full_like(place, 0), place))
    # A number in [1, 2), by its bits.
    one = lax.bitwise_or(lax.shift_right_logical(bits, np.uint32(9)), np.uint32(0x3F800000))
    return lax.bitcast_convert_type(one, np.float32) - np.float32(1)


def _threefry(first: Array, second: Array, one: Array, two: Array) -> tuple[Array, Array]:
    """Two words of a counter, under two of a key."""
    schedule = (first, second, lax.bitwise_xor(lax.bitwise_xor(first, second), _PARITY))
    one, two = lax.add(one, first), lax.add(two, second)
    for group in range(_ROUNDS // 4):
        for rotation in _ROTATIONS[group % 2]:
            one = lax.add(one, two)
            turned = lax.bitwise_or(
                lax.shift_left(two, np.uint32(rotation)),
                lax.shift_right_logical(two, np.uint32(32 - rotation)),
            )
            two = lax.bitwise_xor(one, turned)
        one = lax.add(one, schedule[(group + 1) % 3])
        two = lax.add(lax.add(two, schedule[(group + 2) % 3]), np.uint32(group + 1))
    return one, two
