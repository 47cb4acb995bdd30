"""The layers that convolutional networks are made of, in one type of weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx


class Layers(NamedTuple):
    """Makes layers whose weights, and what is computed with them, are of one type."""

    dtype: Any
    rngs: nnx.Rngs

    def conv(self, inner: int, outer: int) -> nnx.Conv:
        """A 3x3 convolution that keeps the sides."""
        return nnx.Conv(
            inner, outer, (3, 3), dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs
        )

    def linear(self, inner: int, outer: int) -> nnx.Linear:
        """A linear map of the last axis, which a 1x1 convolution is too."""
        return nnx.Linear(inner, outer, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs)

    def embed(self, num: int, features: int) -> nnx.Embed:
        """A vector for each label."""
        return nnx.Embed(num, features, dtype=self.dtype, param_dtype=self.dtype, rngs=self.rngs)

    def norm(self, channels: int, num_groups: int, epsilon: float) -> nnx.GroupNorm:
        """A normalisation over groups of channels, computed in float32: it sums whole pictures."""
        return nnx.GroupNorm(
            channels,
            num_groups=num_groups,
            epsilon=epsilon,
            dtype=jnp.float32,
            param_dtype=self.dtype,
            use_fast_variance=False,
            rngs=self.rngs,
        )
