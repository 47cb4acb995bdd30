"""Sines and cosines that tell a network a number."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array


def sinusoidal(t: Array, features: int, *, shift: int = 0) -> Array:
    """Numbers [n] -> cosines, then sines [n, features], float32 (Vaswani et al. 2017, section 3.5).

    Frequency `i` of `half = features/2` is `10000^(-i / (half - shift))`: with a shift of 1 the
    last is 1/10000, with 0 a step above it. Published networks differ in this.
    """
    half = features // 2
    frequencies = 10_000.0 ** -(np.arange(half) / (half - shift))
    angles = t.astype(jnp.float32)[:, None] * jnp.asarray(frequencies, jnp.float32)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
