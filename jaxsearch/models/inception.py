"""Inception v3 (Szegedy et al. 2016) as it computes Inception scores and FID.

Attributes are named as the keys of pytorch-fid's `pt_inception-2015-12-05-6726825d.pth`, which has
TensorFlow's network of 2015 with 1008 outputs. It differs from torchvision's: means of 3x3 pixels
count no padding, and the last block pools by the maximum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.models.layers import BatchNorm, Layers

_EPSILON = 1e-3
_STEP = 16
"""Divides the channels of every layer."""


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """The shape of an Inception v3.

    Attributes:
        num_classes: logits.
        narrower: what all numbers of channels are divided by, 1 to 16; 1 is the published one.
    """

    num_classes: int = 1008
    narrower: int = 1

    def __post_init__(self) -> None:
        """Refuses what cannot be a shape."""
        check_count("num_classes", self.num_classes)
        check_count("narrower", self.narrower, high=_STEP)
        if _STEP % self.narrower:
            raise ValueError(f"narrower is {self.narrower}: it must divide {_STEP}")


class Unit(nnx.Module):
    """A convolution, normalised and rectified."""

    def __init__(
        self,
        make: Layers,
        inner: int,
        outer: int,
        height: int,
        width: int,
        stride: int = 1,
        pad: bool = False,
    ) -> None:
        padding = [(height // 2, height // 2), (width // 2, width // 2)] if pad else "VALID"
        self.conv = make.conv(
            inner, outer, (height, width), strides=stride, padding=padding, use_bias=False
        )
        self.bn = BatchNorm(outer, _EPSILON, rngs=make.rngs)

    def __call__(self, x: Array) -> Array:
        """[n,h,w,inner] -> [n,h',w',outer]."""
        return jax.nn.relu(self.bn(self.conv(x)))


# Of each block: its units by key, each with inner and outer channels (0 inside: the block's own
# inputs), height and width of its kernel, and its stride. Strides of 2 go without padding.
_Table = dict[str, tuple[int, int, int, int, int]]


def _block_a(pool: int) -> _Table:
    return {
        "branch1x1": (0, 64, 1, 1, 1),
        "branch5x5_1": (0, 48, 1, 1, 1),
        "branch5x5_2": (48, 64, 5, 5, 1),
        "branch3x3dbl_1": (0, 64, 1, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3, 1),
        "branch3x3dbl_3": (96, 96, 3, 3, 1),
        "branch_pool": (0, pool, 1, 1, 1),
    }


def _block_c(inner: int) -> _Table:
    return {
        "branch1x1": (0, 192, 1, 1, 1),
        "branch7x7_1": (0, inner, 1, 1, 1),
        "branch7x7_2": (inner, inner, 1, 7, 1),
        "branch7x7_3": (inner, 192, 7, 1, 1),
        "branch7x7dbl_1": (0, inner, 1, 1, 1),
        "branch7x7dbl_2": (inner, inner, 7, 1, 1),
        "branch7x7dbl_3": (inner, inner, 1, 7, 1),
        "branch7x7dbl_4": (inner, inner, 7, 1, 1),
        "branch7x7dbl_5": (inner, 192, 1, 7, 1),
        "branch_pool": (0, 192, 1, 1, 1),
    }


_BLOCK_B: _Table = {
    "branch3x3": (0, 384, 3, 3, 2),
    "branch3x3dbl_1": (0, 64, 1, 1, 1),
    "branch3x3dbl_2": (64, 96, 3, 3, 1),
    "branch3x3dbl_3": (96, 96, 3, 3, 2),
}
_BLOCK_D: _Table = {
    "branch3x3_1": (0, 192, 1, 1, 1),
    "branch3x3_2": (192, 320, 3, 3, 2),
    "branch7x7x3_1": (0, 192, 1, 1, 1),
    "branch7x7x3_2": (192, 192, 1, 7, 1),
    "branch7x7x3_3": (192, 192, 7, 1, 1),
    "branch7x7x3_4": (192, 192, 3, 3, 2),
}
_BLOCK_E: _Table = {
    "branch1x1": (0, 320, 1, 1, 1),
    "branch3x3_1": (0, 384, 1, 1, 1),
    "branch3x3_2a": (384, 384, 1, 3, 1),
    "branch3x3_2b": (384, 384, 3, 1, 1),
    "branch3x3dbl_1": (0, 448, 1, 1, 1),
    "branch3x3dbl_2": (448, 384, 3, 3, 1),
    "branch3x3dbl_3a": (384, 384, 1, 3, 1),
    "branch3x3dbl_3b": (384, 384, 3, 1, 1),
    "branch_pool": (0, 192, 1, 1, 1),
}
# How branches are put together: units one after another, a tuple of two side by side.
_PATHS_A: tuple = (
    ("branch1x1",),
    ("branch5x5_1", "branch5x5_2"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
)
_PATHS_B: tuple = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
_PATHS_C: tuple = (
    ("branch1x1",),
    ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    tuple(f"branch7x7dbl_{number}" for number in range(1, 6)),
)
_PATHS_D: tuple = (
    ("branch3x3_1", "branch3x3_2"),
    tuple(f"branch7x7x3_{number}" for number in range(1, 5)),
)
_PATHS_E: tuple = (
    ("branch1x1",),
    ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
    ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
)
# Name, inputs, units, paths, and the pool beside them: "mean", "max", or "halve", the maximum with
# a stride of 2 and no unit after it.
_BLOCKS: tuple[tuple[str, int, _Table, tuple, str], ...] = (
    ("Mixed_5b", 192, _block_a(32), _PATHS_A, "mean"),
    ("Mixed_5c", 256, _block_a(64), _PATHS_A, "mean"),
    ("Mixed_5d", 288, _block_a(64), _PATHS_A, "mean"),
    ("Mixed_6a", 288, _BLOCK_B, _PATHS_B, "halve"),
    ("Mixed_6b", 768, _block_c(128), _PATHS_C, "mean"),
    ("Mixed_6c", 768, _block_c(160), _PATHS_C, "mean"),
    ("Mixed_6d", 768, _block_c(160), _PATHS_C, "mean"),
    ("Mixed_6e", 768, _block_c(192), _PATHS_C, "mean"),
    ("Mixed_7a", 768, _BLOCK_D, _PATHS_D, "halve"),
    ("Mixed_7b", 1280, _BLOCK_E, _PATHS_E, "mean"),
    ("Mixed_7c", 2048, _BLOCK_E, _PATHS_E, "max"),
)
_STEM: tuple[tuple[str, int, int, int, int, bool], ...] = (
    ("Conv2d_1a_3x3", 3, 32, 3, 2, False),
    ("Conv2d_2a_3x3", 32, 32, 3, 1, False),
    ("Conv2d_2b_3x3", 32, 64, 3, 1, True),
    ("Conv2d_3b_1x1", 64, 80, 1, 1, False),
    ("Conv2d_4a_3x3", 80, 192, 3, 1, False),
)
_FEATURES = 2048
_SPATIAL, _SPATIAL_CHANNELS = "Mixed_6d", 7
"""ADM's evaluator reads the first 7 channels of TensorFlow's `mixed_6/conv`, the first branch of
this block (so converts torch-fidelity's `convert_inception_weights.py` the graph).
"""


class Outputs(NamedTuple):
    """What ADM's evaluator reads of the network; float32."""

    features: Array  # [n, 2048] means of the last block
    spatial: Array  # [n, 17 * 17 * 7] of 7 channels in the middle, pixel by pixel
    logits: Array  # [n, num_classes] without the last bias


def _pooled(x: Array, kind: str) -> Array:
    """3x3 pixels: their mean, which counts no padding, their maximum, or that at half the sides."""
    if kind == "halve":
        return nnx.max_pool(x, (3, 3), (2, 2))
    around = [(1, 1), (1, 1)]
    if kind == "max":
        return nnx.max_pool(x, (3, 3), (1, 1), around)
    whole = x.astype(jnp.float32)
    return nnx.avg_pool(whole, (3, 3), (1, 1), around, count_include_pad=False).astype(x.dtype)


class Block(nnx.Module):
    """Branches of one input, their channels one after another."""

    branch_pool: Any  # of every block but those that halve; the others are in the tables too

    def __init__(
        self, make: Layers, narrower: int, inputs: int, table: _Table, paths: tuple, pool: str
    ) -> None:
        self.paths, self.pool = paths, pool
        for key, (inner, outer, height, width, stride) in table.items():
            inner = (inner or inputs) // narrower
            unit = Unit(make, inner, outer // narrower, height, width, stride, stride == 1)
            setattr(self, key, unit)

    def __call__(self, x: Array) -> Array:
        """[n,h,w,inputs] -> [n,h',w',outputs]."""
        found = []
        for path in self.paths:
            h = x
            for key in path:
                if isinstance(key, tuple):
                    h = jnp.concatenate([getattr(self, one)(h) for one in key], axis=-1)
                else:
                    h = getattr(self, key)(h)
            found.append(h)
        pooled = _pooled(x, self.pool)
        found.append(pooled if self.pool == "halve" else self.branch_pool(pooled))
        return jnp.concatenate(found, axis=-1)


class Inception(nnx.Module):
    """The network.

    Args:
        config: its shape.
        dtype: of weights and of what is computed with them; norms compute in float32.
        rngs: of all weights.
    """

    def __init__(
        self, config: InceptionConfig, dtype: Any = jnp.float32, *, rngs: nnx.Rngs
    ) -> None:
        self.config, self.dtype, narrower = config, dtype, config.narrower
        make = Layers(dtype, rngs)
        for name, inner, outer, side, stride, pad in _STEM:
            inner = inner if inner == 3 else inner // narrower
            setattr(self, name, Unit(make, inner, outer // narrower, side, side, stride, pad))
        for name, inputs, table, paths, pool in _BLOCKS:
            setattr(self, name, Block(make, narrower, inputs, table, paths, pool))
        self.fc = make.linear(_FEATURES // narrower, config.num_classes)

    def outputs(self, x: Array) -> Outputs:
        """Images as for `features` -> all that metrics are made of."""
        features, middle = self._pass(x)
        # One branch once more: the compiler sees that it is there already.
        spatial = getattr(self, _SPATIAL).branch1x1(middle)[..., :_SPATIAL_CHANNELS]
        logits = features.astype(self.dtype) @ self.fc.kernel[...]
        flat = spatial.astype(jnp.float32).reshape(len(x), -1)
        return Outputs(features, flat, logits.astype(jnp.float32))

    def features(self, x: Array) -> Array:
        """Images [n,h,w,3] in [-1,1], of 299x299 pixels -> means of the last block, [n,2048]."""
        return self._pass(x)[0]

    def _pass(self, x: Array) -> tuple[Array, Array]:
        """The features, and what goes into the block `_SPATIAL`."""
        h = middle = x.astype(self.dtype)
        for name, *_ in _STEM:
            h = getattr(self, name)(h)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                h = _pooled(h, "halve")
        for name, *_ in _BLOCKS:
            middle = h if name == _SPATIAL else middle
            h = getattr(self, name)(h)
        return jnp.mean(h.astype(jnp.float32), axis=(1, 2)), middle

    def __call__(self, x: Array) -> Array:
        """Images as for `features` -> logits [n,num_classes] float32."""
        return self.fc(self.features(x).astype(self.dtype)).astype(jnp.float32)

    def without_bias(self, x: Array) -> Array:
        """Logits without the bias of the last layer, of which Inception scores are made."""
        features = self.features(x).astype(self.dtype)
        return (features @ self.fc.kernel[...]).astype(jnp.float32)


def from_pytorch_fid(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of pytorch-fid's file as `Inception` has them: no counts of the training."""
    return {
        key: tensor for key, tensor in tensors.items() if not key.endswith("num_batches_tracked")
    }


def build(
    config: InceptionConfig = InceptionConfig(), dtype: Any = jnp.float32
) -> Callable[[nnx.Rngs], Inception]:
    """A function that makes the network from random numbers."""
    return lambda rngs: Inception(config, dtype, rngs=rngs)
