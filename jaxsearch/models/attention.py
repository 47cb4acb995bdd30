"""Attention, as every network here calls it."""

from __future__ import annotations

import jax

from jaxsearch.core.types import Array


def attention(query: Array, key: Array, value: Array, *, causal: bool = False) -> Array:
    """Softmax attention of heads [n, length, heads, channels].

    Scaled by `1 / sqrt(channels)` (Vaswani et al. 2017, equation 1); the softmax is in float32.
    Keys and values may have another length than the queries. Where it is causal, a place sees
    itself and those before it only.
    """
    # JAX's own function promotes bfloat16 inside.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, is_causal=causal)
