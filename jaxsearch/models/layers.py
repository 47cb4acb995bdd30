"""The layers that networks are made of, in one type of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array


def compute_type(dtype: Any) -> Any:
    """A type of weights and products, in its one form that caches know it by.

    Raises:
        ValueError: if it is neither float32 nor bfloat16.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype is {dtype.name}: it must be float32 or bfloat16")
    return dtype


def unchanged(x: Array) -> Array:
    """Stands where the training has its dropout, which has a number among the keys."""
    return x


def run(block: nnx.Module, *inputs: Array, remat: bool) -> Array:
    """A block's output; with `remat` a gradient keeps its inputs only, and computes it again.

    Chen, Xu, Zhang, Guestrin, *Training deep nets with sublinear memory cost*, 2016.
    """
    if not remat:
        return block(*inputs)  # type: ignore[operator]
    graph, weights = nnx.split(block)
    again = jax.checkpoint(lambda weights, *inputs: nnx.merge(graph, weights)(*inputs))
    return again(weights, *inputs)


class BatchNorm(nnx.Module):
    """A normalisation by the statistics of the training, in float32.

    Ioffe and Szegedy, *Batch normalization*, 2015, algorithm 2. Attributes are PyTorch's keys.

    Args:
        channels: of the last axis.
        epsilon: added to the variance.
        rngs: takes nothing from them.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5, *, rngs: nnx.Rngs) -> None:
        del rngs
        self.epsilon = epsilon
        self.weight, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.running_mean = nnx.Param(jnp.zeros(channels))
        self.running_var = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Array) -> Array:
        """[n,h,w,c] -> [n,h,w,c], of the type of `x`."""
        scale = self.weight[...] * jax.lax.rsqrt(self.running_var[...] + self.epsilon)
        shift = self.bias[...] - self.running_mean[...] * scale
        whole = x.astype(jnp.float32) * scale[None, None, None] + shift[None, None, None]
        return whole.astype(x.dtype)


class Layers(NamedTuple):
    """Makes layers whose weights, and what is computed with them, are of one type.

    Normalisations are float32 in any case: they sum whole pictures.
    """

    dtype: Any
    rngs: nnx.Rngs
    num_groups: Callable[[int], int] = lambda channels: 32  # of a normalisation, by its channels
    epsilon: float = 1e-5  # of a normalisation

    def conv(
        self, inner: int, outer: int, side: int | tuple[int, int] = 3, **settings: Any
    ) -> nnx.Conv:
        """A convolution, 3x3 unless `side` (of a square, or height and width) says otherwise.

        It keeps the sides of images if `settings` (of `nnx.Conv`) say nothing.
        """
        kernel = side if isinstance(side, tuple) else (side, side)
        return nnx.Conv(
            inner, outer, kernel, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs,
            **settings,
        )  # fmt: skip

    def linear(self, inner: int, outer: int, **settings: Any) -> nnx.Linear:
        """A linear map of the last axis, which a 1x1 convolution is too."""
        return nnx.Linear(
            inner, outer, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs, **settings
        )

    def patches(self, inner: int, outer: int, side: int, **settings: Any) -> nnx.Conv:
        """A linear map of each square of `side` pixels; pixels that are left over are not seen."""
        return self.conv(inner, outer, side, strides=(side, side), padding="VALID", **settings)

    def embed(self, num: int, features: int) -> nnx.Embed:
        """A vector for each label."""
        return nnx.Embed(num, features, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs)

    def norm(self, channels: int) -> nnx.GroupNorm:
        """A normalisation over groups of channels."""
        # The mean of squares less the square of the mean loses digits where activations are large,
        # which they are in a decoder's last blocks.
        return nnx.GroupNorm(
            channels,
            num_groups=self.num_groups(channels),
            epsilon=self.epsilon,
            dtype=jnp.float32,
            use_fast_variance=False,
            rngs=self.rngs,
        )

    def rms_norm(self, features: int) -> nnx.RMSNorm:
        """A division of the last axis by its root mean square."""
        return nnx.RMSNorm(
            features,
            epsilon=self.epsilon,
            dtype=jnp.float32,
            use_fast_variance=False,
            rngs=self.rngs,
        )

    def layer_norm(self, features: int) -> nnx.LayerNorm:
        """A normalisation of the last axis."""
        return nnx.LayerNorm(
            features,
            epsilon=self.epsilon,
            dtype=jnp.float32,
            use_fast_variance=False,
            rngs=self.rngs,
        )
