"""Distances between many points, a block at a time: 50 000 x 50 000 of them need no 10 GB.

Letters: `n` points, `d` features, `b` points of a block.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array

BLOCK = 1024
"""Points of a block."""


def squared_distances(a: Array, b: Array) -> Array:
    """Of points [n, d] and [m, d], [n, m] and 0 or more.

    By `|a|^2 + |b|^2 - 2 a.b`, which is exact to float32's rounding of the squares: take points
    relative to their mean first.
    """
    squares = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None]
    inner = jnp.dot(a, b.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(squares - 2 * inner, 0.0)


def blocks(points: Array, block: int = BLOCK) -> tuple[Array, Array]:
    """Points [n, d] as [blocks, b, d] with their places [blocks, b]; padding has places from n."""
    num = len(points)
    size = min(block, num)
    whole = math.ceil(num / size)
    padded = jnp.pad(points, ((0, whole * size - num), (0, 0)))
    places = jnp.arange(whole * size)
    return padded.reshape(whole, size, -1), places.reshape(whole, size)
