"""Vectors that are compared by their direction."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree

Embed = Callable[[PyTree, Array], Array]
"""A network: `(params, preprocessed images [n,h,w,3] float32) -> [n, features] float32`."""

Apply = Callable[[PyTree, Array, dict[str, Array]], Array]
"""What a verifier computes: `(params, images [n,h,w,c] in [0, 1], context) -> [n]`."""

Preprocess = Callable[[Array], Array]
"""Images [n,h,w,c] float32 in [0, 1] as a network wants them: resized, cropped, normalised."""


def unit(x: Array) -> Array:
    """Vectors [..., features] of length one, float32; one of zeros is left as it is."""
    x = x.astype(jnp.float32)
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    # The gradient of what is not chosen must be finite too.
    return x * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))


def cosine(one: Array, two: Array) -> Array:
    """Of the angles between vectors [..., features], pair by pair: [...] float32 in [-1, 1]."""
    # A sum and no matrix product, which accelerators round to fewer digits.
    return jnp.clip(jnp.sum(unit(one) * unit(two), axis=-1), -1.0, 1.0)
