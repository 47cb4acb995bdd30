"""What all networks here compute alike."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array


def compute_type(dtype: Any) -> Any:
    """A type in which a network may compute products, in its one form that caches know it by.

    Raises:
        ValueError: if it is neither float32 nor bfloat16.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype is {dtype.name}: it must be float32 or bfloat16")
    return dtype


def attend(query: Array, key: Array, value: Array) -> Array:
    """Scaled dot-product attention, its softmax in float32.

    Args:
        query: [n, tokens, heads, features], float32 or bfloat16.
        key: [n, others, heads, features], of the same type.
        value: like `key`.

    Returns:
        [n, tokens, heads, features] of that type.
    """
    # JAX widens bfloat16 for the softmax in a way that its own strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value)
