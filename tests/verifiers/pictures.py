"""Pictures that verifiers are tested on."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def assorted(height: int, width: int, channels: int = 3) -> jax.Array:
    """[6,h,w,c]: black, white, and noise of several strengths."""
    noise = jax.random.uniform(jax.random.key(0), (4, height, width, channels))
    ends = jnp.stack([jnp.zeros_like(noise[0]), jnp.ones_like(noise[0])])
    return jnp.concatenate([ends, noise * jnp.array([1, 0.7, 0.4, 0.1])[:, None, None, None]])
