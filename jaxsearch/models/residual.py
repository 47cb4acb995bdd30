"""The residual block of latent diffusion's networks (Rombach et al. 2022), and doubled sides.

Attributes are named as the keys of `diffusers` are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.layers import Layers


class Residual(nnx.Module):
    """Two convolutions, each of an activated normalisation; the features of a time between them.

    Args:
        inputs: channels.
        outputs: channels.
        make: its layers.
        time: features of a time; 0 for a block that is told none.
    """

    def __init__(self, inputs: int, outputs: int, make: Layers, *, time: int = 0) -> None:
        self.norm1 = make.norm(inputs)
        self.conv1 = make.conv(inputs, outputs)
        if time:
            self.time_emb_proj = make.linear(time, outputs)
        self.norm2 = make.norm(outputs)
        self.conv2 = make.conv(outputs, outputs)
        if inputs != outputs:
            self.conv_shortcut = make.linear(inputs, outputs)
        self.shortens = inputs != outputs

    def __call__(self, x: Array, time: Array | None = None) -> Array:
        """[n,h,w,inputs], and [n,time] if it is told one -> [n,h,w,outputs]."""
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(jax.nn.silu(time))[:, None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if self.shortens else x)


class Up(nnx.Module):
    """Twice the sides, pixels repeated, then a convolution."""

    def __init__(self, channels: int, make: Layers) -> None:
        self.conv = make.conv(channels, channels)

    def __call__(self, x: Array, height: int | None = None, width: int | None = None) -> Array:
        """[n,h,w,c] -> [n,2*h,2*w,c], or cut to a height and a width."""
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, :height, :width])
