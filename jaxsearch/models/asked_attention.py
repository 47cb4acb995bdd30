"""Attention in which places ask others, or each other, by layers of their own for each part.

Attributes are named as the keys of `diffusers` are: `to_q`, `to_k`, `to_v`, `to_out.0`.
"""

from __future__ import annotations

from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.layers import Layers


class AskedAttention(nnx.Module):
    """Tokens [n, length, channels] ask tokens [n, other length, features].

    Args:
        channels: of those who ask, also of the output.
        features: of those who are asked.
        num_heads: of which there are; they divide the channels.
        make: its layers.
        use_bias: whether queries, keys and values have one; what they become has one in any case.
    """

    def __init__(
        self, channels: int, features: int, num_heads: int, make: Layers, *, use_bias: bool = False
    ) -> None:
        self.num_heads = num_heads
        self.to_q = make.linear(channels, channels, use_bias=use_bias)
        self.to_k = make.linear(features, channels, use_bias=use_bias)
        self.to_v = make.linear(features, channels, use_bias=use_bias)
        self.to_out = nnx.List([make.linear(channels, channels)])

    def __call__(self, x: Array, asked: Array, seen: Array | None = None) -> Array:
        """[n, length, channels]; of those asked only those with `seen` [n, other length] answer."""

        def heads(tokens: Array) -> Array:
            return tokens.reshape(*tokens.shape[:2], self.num_heads, -1)

        mixed = attention(
            heads(self.to_q(x)), heads(self.to_k(asked)), heads(self.to_v(asked)), seen=seen
        )
        return self.to_out[0](mixed.reshape(x.shape))
