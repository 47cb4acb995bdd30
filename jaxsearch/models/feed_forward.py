"""Two layers with something between them, with the attribute names of `diffusers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.layers import Layers, unchanged


class TwoLayers(nnx.Module):
    """Two layers with an activation between them: `linear_1` and `linear_2`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        make: Layers,
        activation: Callable[[Array], Array] = jax.nn.silu,
    ) -> None:
        self.activation = activation
        self.linear_1 = make.linear(inputs, outputs)
        self.linear_2 = make.linear(outputs, outputs)

    def __call__(self, x: Array) -> Array:
        """[n, ..., inputs] -> [n, ..., outputs]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class Gelu(nnx.Module):
    """A first layer, `proj`, with GELU in its form with tanh (Hendrycks & Gimpel 2016)."""

    def __init__(self, size: int, make: Layers) -> None:
        self.proj = make.linear(size, 4 * size)

    def __call__(self, x: Array) -> Array:
        """[n, length, size] -> [n, length, 4 * size]."""
        return jax.nn.gelu(self.proj(x), approximate=True)


class FeedForward(nnx.Module):
    """The perceptron of a transformer's block: a first layer and one back, in `net`.

    Args:
        size: features of a token.
        first: tokens to 4 times as many features, with its activation; such as `Gelu`.
        make: the layer back.
    """

    def __init__(self, size: int, first: nnx.Module, make: Layers) -> None:
        net: list[Any] = [first, unchanged, make.linear(4 * size, size)]
        self.net = nnx.List(net)

    def __call__(self, x: Array) -> Array:
        """[n, length, size] -> [n, length, size]."""
        for layer in self.net:
            x = layer(x)
        return x
