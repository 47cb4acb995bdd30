"""Attention, as every network here calls it."""

from __future__ import annotations

from typing import Literal

import jax
import jax.extend
import jax.numpy as jnp

from jaxsearch.core.types import Array

_MOST_CHANNELS = 128
"""Of a head that cuDNN takes on every GPU that it has flash attention for."""


def attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    causal: bool = False,
    seen: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
) -> Array:
    """Softmax attention of heads [n, length, heads, channels].

    Scaled by `1 / sqrt(channels)` (Vaswani et al. 2017, equation 1); the softmax is in float32.
    Keys and values may have another length than the queries.

    In bfloat16 and on NVIDIA's GPUs it is cuDNN's flash attention, which never has all pairs of
    places in memory, unless a head has more than 128 channels or a number of them that 8 does not
    divide. With a mask or a bias it is XLA's own.

    Args:
        query: [n, length, heads, channels].
        key: [n, other length, heads, channels].
        value: as `key`.
        causal: whether a place sees itself and those before it only.
        seen: [n, other length] bool, which keys are seen at all; None: all of them. One at least.
        bias: [heads, length, other length], added to the scaled products; None: nothing.
        scale: by what products are multiplied; None: `1 / sqrt(channels)`.
    """
    asked = seen is not None or bias is not None or scale is not None
    # JAX's own function promotes bfloat16 inside.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=None if bias is None else bias[None],
            mask=None if seen is None else seen[:, None, None, :],
            scale=scale,
            is_causal=causal,
            implementation="xla" if asked else implementation(query),
        )


def implementation(query: Array) -> Literal["cudnn", "xla"]:
    """Which of JAX's implementations attention of these queries takes."""
    channels = query.shape[-1]
    fits = query.dtype == jnp.bfloat16 and channels % 8 == 0 and channels <= _MOST_CHANNELS
    return "cudnn" if fits and "cuda" in _platform() else "xla"


def _platform() -> str:
    return jax.extend.backend.get_backend().platform_version
