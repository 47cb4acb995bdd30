"""The classifiers of noisy images of Dhariwal & Nichol 2021: ADM's way down, then attention.

Attributes are named as the keys of guided-diffusion's checkpoints (`64x64_classifier.pt`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.adm import AdmConfig, Encoder, layers_of, reordered
from jaxsearch.models.attention import attention
from jaxsearch.models.layers import Layers

PUBLISHED = {
    "64x64_classifier": AdmConfig(
        image_size=64, out_channels=1000, model_channels=128, num_res_blocks=4
    ),
    "128x128_classifier": AdmConfig(
        image_size=128,
        out_channels=1000,
        model_channels=128,
        num_res_blocks=2,
        channel_mult=(1, 1, 2, 3, 4),
    ),
    "256x256_classifier": AdmConfig(
        image_size=256,
        out_channels=1000,
        model_channels=128,
        num_res_blocks=2,
        channel_mult=(1, 1, 2, 2, 4, 4),
    ),
}
"""Shapes of the published classifiers; `out_channels` are their classes."""


class AttentionPool(nnx.Module):
    """The mean of all pixels attends to itself and to them (Radford et al. 2021, section 2.3).

    Each place, the mean's first, has a learnt position added.
    """

    def __init__(self, make: Layers, config: AdmConfig, channels: int, side: int) -> None:
        self.head_channels = config.head_channels
        positions = jax.random.normal(make.rngs.params(), (channels, side**2 + 1), make.dtype)
        self.positional_embedding = nnx.Param(positions * channels**-0.5)
        self.qkv_proj = make.linear(channels, 3 * channels)
        self.c_proj = make.linear(channels, config.out_channels)

    def __call__(self, x: Array) -> Array:
        """[n,h,w,c] -> [n,out_channels]."""
        pixels = x.reshape((x.shape[0], -1, x.shape[-1]))
        places = jnp.concatenate([jnp.mean(pixels, axis=1, keepdims=True), pixels], axis=1)
        places = places + self.positional_embedding[...].T[None]
        qkv = self.qkv_proj(places).reshape((*places.shape[:2], 3, -1, self.head_channels))
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        read = attention(query[:, :1], key, value)  # of the mean only: no other place is read
        return self.c_proj(read.reshape((x.shape[0], x.shape[-1])))


class AdmClassifier(Encoder):
    """The classifier; its arguments and errors are those of `Encoder`."""

    def __init__(
        self, config: AdmConfig, dtype: Any = jnp.float32, remat: bool = False, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, dtype, remat, rngs=rngs)
        make = layers_of(config, dtype, rngs)
        channels = config.model_channels * config.channel_mult[-1]
        side = config.image_size >> (len(config.channel_mult) - 1)
        pool = AttentionPool(make, config, channels, side)
        self.out: Any = nnx.List([make.norm(channels), jax.nn.silu, pool])

    def __call__(self, x: Array, t: Array) -> Array:
        """Images [n,h,w,c] in [-1,1] with noise of times [n] -> logits [n,out_channels] float32.

        The times are steps of diffusion, 0 to 999; 0 is of images with next to no noise.
        """
        h, _ = self.encode(x, self.embedded(t))
        norm, activate, pool = self.out
        return pool(activate(norm(h)).astype(self.dtype)).astype(jnp.float32)


def from_guided_diffusion(
    tensors: Mapping[str, np.ndarray], config: AdmConfig
) -> dict[str, np.ndarray]:
    """The tensors of a published classifier as `AdmClassifier` has them.

    Keys are the same. Its blocks order queries, keys and values within each head, its pooling
    before them.
    """
    return {
        key: reordered(tensor, config.head_channels, "head_three_channel")
        if key.rpartition(".")[0].endswith(".qkv") and not len(tensor) % (3 * config.head_channels)
        else tensor
        for key, tensor in tensors.items()
    }


def build(
    config: AdmConfig, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[nnx.Rngs], AdmClassifier]:
    """A function that makes the network from random numbers."""
    return lambda rngs: AdmClassifier(config, dtype, remat, rngs=rngs)
