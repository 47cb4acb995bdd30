"""ViT as a classifier (Dosovitskiy et al. 2021), as torchvision's state dicts hold it."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.configs import LARGEST_SIDE, MOST_BLOCKS
from jaxsearch.models.layers import Layers, unchanged
from jaxsearch.models.stacked import Stacked

_EPSILON = 1e-6
_gelu = functools.partial(jax.nn.gelu, approximate=False)


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """The shape of a ViT.

    Attributes:
        image_size: sides of an image.
        patch_size: sides of a patch; divides them.
        width: features of a place.
        depth: blocks.
        num_heads: of attention; divides the width.
        inner: features inside a block's perceptron.
        num_classes: logits.
    """

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    inner: int = 3072
    num_classes: int = 1000

    def __post_init__(self) -> None:
        """Refuses what cannot be a shape."""
        check_count("image_size", self.image_size, high=LARGEST_SIDE)
        check_count("depth", self.depth, high=MOST_BLOCKS)
        for name in ("patch_size", "width", "num_heads", "inner", "num_classes"):
            check_count(name, getattr(self, name))
        for name, whole, part in (
            ("patch_size", self.image_size, self.patch_size),
            ("num_heads", self.width, self.num_heads),
        ):
            if whole % part:
                raise ValueError(f"{name} is {part}, which does not divide {whole}")


_LARGE: dict[str, Any] = {"width": 1024, "depth": 24, "num_heads": 16, "inner": 4096}
PUBLISHED = {
    "vit_b_16": VitConfig(),
    "vit_b_32": VitConfig(patch_size=32),
    "vit_l_16": VitConfig(**_LARGE),
    "vit_l_32": VitConfig(patch_size=32, **_LARGE),
    "vit_h_14": VitConfig(
        image_size=518, patch_size=14, width=1280, depth=32, num_heads=16, inner=5120
    ),
}
"""Shapes of the published networks."""

HEADS = {config.width: config.num_heads for config in PUBLISHED.values()}
"""Of attention, by width: no tensor says how many there are."""


class SelfAttention(nnx.Module):
    """Every place attends to all."""

    def __init__(self, make: Layers, config: VitConfig) -> None:
        self.num_heads = config.num_heads
        self.in_proj = make.linear(config.width, 3 * config.width)
        self.out_proj = make.linear(config.width, config.width)

    def __call__(self, x: Array) -> Array:
        """[n,length,width] -> [n,length,width]."""
        qkv = self.in_proj(x).reshape((*x.shape[:2], 3, self.num_heads, -1))
        return self.out_proj(attention(*jnp.moveaxis(qkv, 2, 0)).reshape(x.shape))


class Block(nnx.Module):
    """Attention, then a perceptron of each place; each of a normalisation, and added."""

    def __init__(self, make: Layers, config: VitConfig) -> None:
        self.dtype = make.dtype
        self.ln_1, self.ln_2 = make.layer_norm(config.width), make.layer_norm(config.width)
        self.self_attention = SelfAttention(make, config)
        up, down = make.linear(config.width, config.inner), make.linear(config.inner, config.width)
        self.mlp: Any = nnx.List([up, _gelu, unchanged, down])

    def __call__(self, x: Array) -> Array:
        """[n,length,width] -> [n,length,width]."""
        x = x + self.self_attention(self.ln_1(x).astype(self.dtype))
        up, activate, _, down = self.mlp
        return x + down(activate(up(self.ln_2(x).astype(self.dtype))))


class Encoder(nnx.Module):
    """Positions are added, then come the blocks."""

    def __init__(self, make: Layers, config: VitConfig) -> None:
        length = (config.image_size // config.patch_size) ** 2 + 1
        shape = (1, length, config.width)
        self.pos_embedding = nnx.Param(
            0.02 * jax.random.normal(make.rngs.params(), shape, make.dtype)
        )
        self.layers = Stacked(
            lambda rngs: Block(Layers(make.dtype, rngs, epsilon=_EPSILON), config),
            config.depth,
            rngs=make.rngs,
        )
        self.ln = make.layer_norm(config.width)

    def __call__(self, x: Array) -> Array:
        """[n,length,width] -> [n,length,width] float32."""
        return self.ln(self.layers(x + self.pos_embedding[...]))


class Vit(nnx.Module):
    """The classifier.

    Args:
        config: its shape.
        dtype: of weights and of what is computed with them; norms compute in float32.
        rngs: of all weights.
    """

    def __init__(self, config: VitConfig, dtype: Any = jnp.float32, *, rngs: nnx.Rngs) -> None:
        self.config, self.dtype = config, dtype
        make, size = Layers(dtype, rngs, epsilon=_EPSILON), config.patch_size
        self.conv_proj = make.conv(3, config.width, size, strides=size, padding="VALID")
        self.class_token = nnx.Param(jnp.zeros((1, 1, config.width), dtype))
        self.encoder = Encoder(make, config)
        self.heads: Any = nnx.Dict(head=make.linear(config.width, config.num_classes))

    def __call__(self, x: Array) -> Array:
        """Normalised images [n,image_size,image_size,3] -> logits [n,num_classes] float32."""
        patches = self.conv_proj(x.astype(self.dtype)).reshape((len(x), -1, self.config.width))
        token = jnp.broadcast_to(self.class_token[...], (len(x), 1, self.config.width))
        read = self.encoder(jnp.concatenate([token, patches], axis=1))[:, 0]
        return self.heads["head"](read.astype(self.dtype)).astype(jnp.float32)


def is_one(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict is of this family."""
    return "class_token" in tensors and "conv_proj.weight" in tensors


def config_of(tensors: Mapping[str, np.ndarray], source: str | os.PathLike[str]) -> VitConfig:
    """The shape that a state dict has; whether all of it fits is said by whoever loads it.

    Raises:
        ValueError: if a tensor that says it is missing, or no published network is as wide.
    """
    tensors, depth = from_torchvision(tensors), 0
    while f"encoder.layers.{depth}.ln_1.weight" in tensors:
        depth += 1
    try:
        width, _, patch, _ = tensors["conv_proj.weight"].shape
        side = math.isqrt(tensors["encoder.pos_embedding"].shape[1] - 1)
        inner, num_classes = (
            len(tensors[name]) for name in ("encoder.layers.0.mlp.0.weight", "heads.head.weight")
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{source} is no ViT of torchvision's: it lacks {error}") from error
    if width not in HEADS:
        known = ", ".join(map(str, sorted(HEADS)))
        raise ValueError(f"{source} is a ViT of width {width}: known are those of {known}")
    return VitConfig(side * patch, patch, width, depth, HEADS[width], inner, num_classes)


def from_torchvision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a published network as `Vit` has them; both names of its perceptrons."""
    renamed = {}
    for key, tensor in tensors.items():
        key = re.sub(r"^encoder\.layers\.encoder_layer_(\d+)\.", r"encoder.layers.\1.", key)
        key = re.sub(r"\.in_proj_(weight|bias)$", r".in_proj.\1", key)
        key = key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3.")
        renamed[key] = tensor
    return renamed


def build(config: VitConfig, dtype: Any = jnp.float32) -> Callable[[nnx.Rngs], Vit]:
    """A function that makes the network from random numbers."""
    return lambda rngs: Vit(config, dtype, rngs=rngs)
