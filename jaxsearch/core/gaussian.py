"""Standard Gaussians of PRNG keys: those of `jax.random.normal`, bit by bit, in less time on CPU.

There JAX compiles its generator as a loop over the rounds, so that the numbers of every round go
through memory and nothing joins the loop. Here the rounds are written out: one kernel makes bits
into Gaussians, and takes less time to compile too.

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
    kind = str(jax.random.key_impl(keys))
    if kind != KEY_KIND:
        raise ValueError(
            f"keys are of kind {kind!r}, whose numbers hang on what is drawn beside them: make "
            f"them with jax.random.key(seed, impl={KEY_KIND!r})"
        )
    return _normal(jax.random.key_data(keys), size)


@functools.partial(jax.jit, static_argnums=1)  # for what is traced often: once for all
def _normal(words: Array, size: int) -> Array:
    """Gaussians [..., n] of the words [..., 2] of keys."""
    shape = (*words.shape[:-1], size)
    first, second = (
        lax.broadcast_in_dim(words[..., i], shape, range(len(shape) - 1)) for i in (0, 1)
    )
    place = lax.broadcasted_iota(np.uint32, shape, len(shape) - 1)
    bits = lax.bitwise_xor(*_threefry(first, second, lax.full_like(place, 0), place))
    # 23 bits make a number in [1, 2), then one in (-1, 1).
    unit = lax.bitcast_convert_type(
        lax.bitwise_or(lax.shift_right_logical(bits, np.uint32(9)), np.uint32(0x3F800000)),
        np.float32,
    ) - np.float32(1)
    least = np.nextafter(np.float32(-1), np.float32(0))
    uniform = lax.max(least, unit * (np.float32(1) - least) + least)
    return np.float32(math.sqrt(2)) * lax.erf_inv(uniform)


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
