"""Sines and cosines that tell a network a number."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array


def sinusoidal(t: Array, channels: int, *, max_period: float = 10_000.0) -> Array:
    """Numbers [n] -> cosines, then sines [n, channels] (Vaswani et al. 2017, section 3.5).

    The frequencies go from 1 down to, and not including, `1 / max_period`.
    """
    half = channels // 2
    frequencies = np.exp(-np.log(max_period) * np.arange(half) / half).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
