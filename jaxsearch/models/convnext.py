"""ConvNeXt (Liu et al. 2022). Attributes are named as the keys of torchvision's state dicts."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.models.configs import MOST_BLOCKS
from jaxsearch.models.layers import Layers, unchanged
from jaxsearch.models.stacked import Stacked

_EPSILON = 1e-6
_gelu = functools.partial(jax.nn.gelu, approximate=False)


@dataclasses.dataclass(frozen=True)
class ConvNextConfig:
    """The shape of a ConvNeXt.

    Attributes:
        depths: blocks of each stage; the first begins at a quarter of the sides, the others halve.
        widths: channels of each stage.
        num_classes: logits.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int = 1000

    def __post_init__(self) -> None:
        """Refuses what cannot be a shape."""
        check_count("num_classes", self.num_classes)
        check_count("the number of stages", len(self.depths))
        for depth in self.depths:
            check_count("an entry of depths", depth, high=MOST_BLOCKS)


PUBLISHED = {
    "convnext_tiny": ConvNextConfig((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ConvNextConfig((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ConvNextConfig((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ConvNextConfig((3, 3, 27, 3), (192, 384, 768, 1536)),
}
"""Shapes of the published networks."""


class Block(nnx.Module):
    """A convolution by channel, then a perceptron of each pixel; scaled and added."""

    def __init__(self, make: Layers, width: int) -> None:
        self.dtype = make.dtype
        by_channel = make.conv(width, width, 7, feature_group_count=width)
        up, down = make.linear(width, 4 * width), make.linear(4 * width, width)
        self.block: Any = nnx.List([by_channel, unchanged, make.layer_norm(width), up, _gelu, down])
        self.layer_scale = nnx.Param(jnp.full(width, 1e-6, make.dtype))

    def __call__(self, x: Array) -> Array:
        """[n,h,w,width] -> [n,h,w,width]."""
        conv, _, norm, up, activate, down = self.block
        h = down(activate(up(norm(conv(x)).astype(self.dtype))))
        return x + self.layer_scale[...][None, None, None] * h


class ConvNext(nnx.Module):
    """The classifier.

    Args:
        config: its shape.
        dtype: of weights and of what is computed with them; norms compute in float32.
        rngs: of all weights.
    """

    def __init__(self, config: ConvNextConfig, dtype: Any = jnp.float32, *, rngs: nnx.Rngs) -> None:
        self.config, self.dtype = config, dtype
        make, width = Layers(dtype, rngs, epsilon=_EPSILON), config.widths[0]
        parts: list[Any] = []
        for depth, wider in zip(config.depths, config.widths, strict=True):
            if parts:
                halved = make.conv(width, wider, 2, strides=2, padding="VALID")
                parts.append(nnx.List([make.layer_norm(width), halved]))
            else:
                patches = make.conv(3, wider, 4, strides=4, padding="VALID")
                parts.append(nnx.List([patches, make.layer_norm(wider)]))
            width = wider
            one = functools.partial(_block, dtype, width)
            parts.append(Stacked(one, depth, rngs=rngs))
        self.features: Any = nnx.List(parts)
        self.classifier: Any = nnx.List(
            [make.layer_norm(width), unchanged, make.linear(width, config.num_classes)]
        )

    def __call__(self, x: Array) -> Array:
        """Normalised images [n,h,w,3] -> logits [n,num_classes] float32."""
        h = x.astype(self.dtype)
        for part in self.features:
            if isinstance(part, Stacked):
                h = part(h)
            else:
                for layer in part:
                    h = layer(h).astype(self.dtype)
        norm, _, linear = self.classifier
        return linear(norm(jnp.mean(h, axis=(1, 2))).astype(self.dtype)).astype(jnp.float32)


def _block(dtype: Any, width: int, rngs: nnx.Rngs) -> Block:
    return Block(Layers(dtype, rngs, epsilon=_EPSILON), width)


def is_one(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict is of this family."""
    return "features.1.0.layer_scale" in tensors


def config_of(tensors: Mapping[str, np.ndarray], source: str | os.PathLike[str]) -> ConvNextConfig:
    """The shape that a state dict has; whether all of it fits is said by whoever loads it.

    Raises:
        ValueError: if a tensor that says it is missing.
    """
    depths: list[int] = []
    widths: list[int] = []
    while f"features.{2 * len(depths) + 1}.0.layer_scale" in tensors:
        stage, depth = f"features.{2 * len(depths) + 1}", 1
        while f"{stage}.{depth}.layer_scale" in tensors:
            depth += 1
        depths.append(depth)
        widths.append(len(tensors[f"{stage}.0.layer_scale"]))
    if "classifier.2.weight" not in tensors:
        raise ValueError(f"{source} is no ConvNeXt of torchvision's: it has no classifier.2.weight")
    return ConvNextConfig(tuple(depths), tuple(widths), len(tensors["classifier.2.weight"]))


def from_torchvision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a published network as `ConvNext` has them: scales without sides of 1."""
    return {
        key: tensor[:, 0, 0]
        if key.endswith("layer_scale") and tensor.shape[1:] == (1, 1)
        else tensor
        for key, tensor in tensors.items()
    }


def build(config: ConvNextConfig, dtype: Any = jnp.float32) -> Callable[[nnx.Rngs], ConvNext]:
    """A function that makes the network from random numbers."""
    return lambda rngs: ConvNext(config, dtype, rngs=rngs)
