"""The transformer that the encoders of CLIP and SigLIP are, and what DiT and DINOv2 have of theirs.

Attributes of CLIP's are named as the keys of `transformers` are: `layers.0.self_attn.q_proj`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.layers import Layers
from jaxsearch.models.stacked import Stacked


def _quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, near the exact one (Hendrycks & Gimpel 2016, section 2)."""
    return x * jax.nn.sigmoid(x * jnp.asarray(1.702, x.dtype))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": _quick_gelu,
}
"""What stands between the two layers of a perceptron, by the names of `transformers`."""


class Shape(Protocol):
    """What says how a transformer is built; the configs of both encoders do."""

    @property
    def hidden_size(self) -> int:
        """Features of a token."""

    @property
    def intermediate_size(self) -> int:
        """Features inside a perceptron."""

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers."""

    @property
    def num_attention_heads(self) -> int:
        """Of each attention."""

    @property
    def hidden_act(self) -> str:
        """Of `ACTIVATIONS`."""

    @property
    def layer_norm_eps(self) -> float:
        """Of all normalisations."""


def check_shape(config: Any, activations: tuple[str, ...]) -> None:
    """Refuses a config (a dataclass with what `Shape` has) that no transformer can be built of.

    All its fields that are typed `int` must be whole numbers from 1.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """
    for field in dataclasses.fields(config):
        if field.type == "int":
            check_count(field.name, getattr(config, field.name))
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size is {config.hidden_size}: it must be a multiple of num_attention_heads, "
            f"{config.num_attention_heads}"
        )
    if config.hidden_act not in activations:
        raise ValueError(
            f"hidden_act is {config.hidden_act!r}: only {' or '.join(activations)} is supported"
        )
    check_range("layer_norm_eps", config.layer_norm_eps, 0.0, open_low=True)


class _Attention(nnx.Module):
    """Each token asks all of them, or those before it and itself."""

    def __init__(self, config: Shape, causal: bool, make: Layers) -> None:
        size, self.num_heads, self.causal = config.hidden_size, config.num_attention_heads, causal
        self.q_proj = make.linear(size, size)
        self.k_proj = make.linear(size, size)
        self.v_proj = make.linear(size, size)
        self.out_proj = make.linear(size, size)

    def __call__(self, x: Array) -> Array:
        heads = (*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)
        query, key, value = (
            layer(x).reshape(heads) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attention(query, key, value, causal=self.causal).reshape(x.shape))


class JointAttention(nnx.Module):
    """Each token asks all of them; one layer makes queries, keys and values: `qkv`, `proj`."""

    def __init__(self, hidden_size: int, num_heads: int, make: Layers) -> None:
        self.num_heads = num_heads
        self.qkv = make.linear(hidden_size, 3 * hidden_size)
        self.proj = make.linear(hidden_size, hidden_size)

    def __call__(self, x: Array) -> Array:
        """[n, length, hidden_size] to the same shape, in the layers' type."""
        num, tokens, size = x.shape
        heads = (num, tokens, 3, self.num_heads, size // self.num_heads)
        query, key, value = jnp.unstack(self.qkv(x).reshape(heads), axis=2)
        return self.proj(attention(query, key, value).reshape(x.shape))


class Perceptron(nnx.Module):
    """Two layers with an activation between them: `fc1`, `fc2`."""

    def __init__(self, config: Shape, make: Layers) -> None:
        self.activation = config.hidden_act
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Array) -> Array:
        """[n, length, hidden_size] to the same shape, in the layers' type."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class _Layer(nnx.Module):
    def __init__(self, config: Shape, causal: bool, make: Layers) -> None:
        self.layer_norm1 = make.layer_norm(config.hidden_size)
        self.self_attn = _Attention(config, causal, make)
        self.layer_norm2 = make.layer_norm(config.hidden_size)
        self.mlp = Perceptron(config, make)

    def __call__(self, x: Array) -> Array:
        x = x + self.self_attn(self.layer_norm1(x)).astype(x.dtype)
        return x + self.mlp(self.layer_norm2(x)).astype(x.dtype)


class Transformer(nnx.Module):
    """Layers of attention and perceptron, each normalised before (Radford et al. 2019).

    Args:
        config: how it is built.
        causal: whether a token sees only those before it and itself.
        dtype: float32 or bfloat16, in which products are computed. Normalisations and softmax are
            float32 in any case; what is passed from layer to layer keeps the type it comes in.
        remat: whether a gradient computes each layer again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: Shape,
        *,
        causal: bool = False,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        def layer(rngs: nnx.Rngs) -> _Layer:
            return _Layer(config, causal, Layers(dtype, rngs, epsilon=config.layer_norm_eps))

        self.layers = Stacked(layer, config.num_hidden_layers, remat=remat, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[n, length, hidden_size] to the same shape and type."""
        return self.layers(x)


class TokenEmbeddings(nnx.Module):
    """A vector for each token and one for each place: `token_embedding`, `position_embedding`."""

    def __init__(self, vocab_size: int, length: int, features: int, make: Layers) -> None:
        self.token_embedding = make.embed(vocab_size, features)
        self.position_embedding = make.embed(length, features)

    def __call__(self, ids: Array) -> Array:
        """Tokens [n, length] int32 to [n, length, features]."""
        places = self.position_embedding(jnp.arange(ids.shape[1]))
        return self.token_embedding(ids) + places[None]


def without_places(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Without the numbers 0, 1, ... by which older files looked their places up."""
    return {key: value for key, value in tensors.items() if not key.endswith(".position_ids")}
