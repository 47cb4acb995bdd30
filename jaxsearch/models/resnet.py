"""ResNet (He et al. 2016), and what became of it by width and groups: ResNeXt, wide ResNet.

Attributes are named as the keys of torchvision's state dicts. The halving of a bottleneck is in its
3x3 convolution, as torchvision has it.
"""

from __future__ import annotations

import dataclasses
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
from jaxsearch.models.layers import BatchNorm, Layers


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    Attributes:
        depths: blocks of each stage; every stage but the first halves the sides.
        inner: channels inside the blocks of each stage.
        outer: channels between them.
        bottleneck: whether a block is three convolutions (1x1, 3x3, 1x1) and not two of 3x3.
        groups: of a bottleneck's 3x3 convolution.
        stem: channels of the first convolution.
        num_classes: logits.
    """

    depths: tuple[int, ...]
    inner: tuple[int, ...] = (64, 128, 256, 512)
    outer: tuple[int, ...] = (256, 512, 1024, 2048)
    bottleneck: bool = True
    groups: int = 1
    stem: int = 64
    num_classes: int = 1000

    def __post_init__(self) -> None:
        """Refuses what cannot be a shape."""
        for name in ("groups", "stem", "num_classes"):
            check_count(name, getattr(self, name))
        check_count("the number of stages", len(self.depths))
        for depth in self.depths:
            check_count("an entry of depths", depth, high=MOST_BLOCKS)


_BASIC: dict[str, Any] = {"outer": (64, 128, 256, 512), "bottleneck": False}
PUBLISHED = {
    "resnet18": ResNetConfig((2, 2, 2, 2), **_BASIC),
    "resnet34": ResNetConfig((3, 4, 6, 3), **_BASIC),
    "resnet50": ResNetConfig((3, 4, 6, 3)),
    "resnet101": ResNetConfig((3, 4, 23, 3)),
    "resnet152": ResNetConfig((3, 8, 36, 3)),
    "resnext50_32x4d": ResNetConfig((3, 4, 6, 3), inner=(128, 256, 512, 1024), groups=32),
    "wide_resnet50_2": ResNetConfig((3, 4, 6, 3), inner=(128, 256, 512, 1024)),
}
"""Shapes of the published networks."""


def _same(side: int) -> list[tuple[int, int]]:
    """Padding of PyTorch's convolutions: the same at both ends, whatever the stride."""
    return [(side // 2, side // 2)] * 2


class Block(nnx.Module):
    """Convolutions whose output is added to their input."""

    def __init__(
        self, make: Layers, config: ResNetConfig, inputs: int, inner: int, outer: int, stride: int
    ) -> None:
        self.bottleneck = config.bottleneck

        def conv(a: int, b: int, side: int, stride: int = 1, groups: int = 1) -> nnx.Conv:
            return make.conv(
                a, b, side, strides=stride, padding=_same(side), use_bias=False,
                feature_group_count=groups,
            )  # fmt: skip

        if self.bottleneck:
            self.conv1, self.conv2 = (
                conv(inputs, inner, 1),
                conv(inner, inner, 3, stride, config.groups),
            )
            self.conv3, self.bn3 = conv(inner, outer, 1), BatchNorm(outer, rngs=make.rngs)
        else:
            self.conv1, self.conv2 = conv(inputs, inner, 3, stride), conv(inner, outer, 3)
        self.bn1 = BatchNorm(inner, rngs=make.rngs)
        self.bn2 = BatchNorm(inner if self.bottleneck else outer, rngs=make.rngs)
        self.shortens = stride != 1 or inputs != outer
        if self.shortens:
            shortcut = [conv(inputs, outer, 1, stride), BatchNorm(outer, rngs=make.rngs)]
            self.downsample: Any = nnx.List(shortcut)

    def __call__(self, x: Array) -> Array:
        """[n,h,w,inputs] -> [n,h',w',outer]."""
        h = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            h = self.bn3(self.conv3(jax.nn.relu(h)))
        if self.shortens:
            conv, norm = self.downsample
            x = norm(conv(x))
        return jax.nn.relu(h + x)


class ResNet(nnx.Module):
    """The classifier.

    Args:
        config: its shape.
        dtype: of weights and of what is computed with them; norms compute in float32.
        rngs: of all weights.
    """

    def __init__(self, config: ResNetConfig, dtype: Any = jnp.float32, *, rngs: nnx.Rngs) -> None:
        self.config, self.dtype = config, dtype
        make, inputs = Layers(dtype, rngs), config.stem
        self.conv1 = make.conv(3, inputs, 7, strides=2, padding=_same(7), use_bias=False)
        self.bn1 = BatchNorm(inputs, rngs=rngs)
        for stage, depth in enumerate(config.depths):
            inner, outer = config.inner[stage], config.outer[stage]
            blocks = []
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Block(make, config, inputs, inner, outer, stride))
                inputs = outer
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        self.fc = make.linear(inputs, config.num_classes)

    def __call__(self, x: Array) -> Array:
        """Normalised images [n,h,w,3] -> logits [n,num_classes] float32."""
        h = jax.nn.relu(self.bn1(self.conv1(x.astype(self.dtype))))
        h = nnx.max_pool(h, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for stage in range(len(self.config.depths)):
            for block in getattr(self, f"layer{stage + 1}"):
                h = block(h)
        return self.fc(jnp.mean(h, axis=(1, 2))).astype(jnp.float32)


def is_one(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a state dict is of this family."""
    return "conv1.weight" in tensors and "layer1.0.conv1.weight" in tensors


def config_of(tensors: Mapping[str, np.ndarray], source: str | os.PathLike[str]) -> ResNetConfig:
    """The shape that a state dict has; whether all of it fits is said by whoever loads it.

    Raises:
        ValueError: if a tensor that says it is missing.
    """
    depths: list[int] = []
    while f"layer{len(depths) + 1}.0.conv1.weight" in tensors:
        stage, depth = f"layer{len(depths) + 1}", 1
        while f"{stage}.{depth}.conv1.weight" in tensors:
            depth += 1
        depths.append(depth)
    bottleneck = "layer1.0.conv3.weight" in tensors
    last = "conv3" if bottleneck else "conv2"
    try:
        first = [f"layer{stage + 1}.0" for stage in range(len(depths))]
        inner = tuple(len(tensors[f"{name}.conv1.weight"]) for name in first)
        outer = tuple(len(tensors[f"{name}.{last}.weight"]) for name in first)
        groups = inner[0] // tensors["layer1.0.conv2.weight"].shape[1] if bottleneck else 1
        stem, num_classes = len(tensors["conv1.weight"]), len(tensors["fc.weight"])
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{source} is no ResNet of torchvision's: it has no {error}") from error
    return ResNetConfig(tuple(depths), inner, outer, bottleneck, groups, stem, num_classes)


def from_torchvision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a published network as `ResNet` has them: without counts of the training."""
    return {
        key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")
    }


def build(config: ResNetConfig, dtype: Any = jnp.float32) -> Callable[[nnx.Rngs], ResNet]:
    """A function that makes the network from random numbers."""
    return lambda rngs: ResNet(config, dtype, rngs=rngs)
