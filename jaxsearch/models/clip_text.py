"""The text encoder of CLIP (Radford et al. 2021), as text-to-image models are told their prompts.

Attributes are named as the keys of `transformers` are, without the `text_model.` that files of its
fourth version begin them with: `encoder.layers.0.self_attn.q_proj`.

Reference: Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
supervision*, 2021, section 2.4, https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.attention import attention
from jaxsearch.models.folders import (
    OF_TRANSFORMERS,
    check_entries,
    number,
    read_config,
    read_weights,
    rename,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import functional
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.state_dict import load_state_dict


def _quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, near the exact one (Hendrycks & Gimpel 2016, section 2)."""
    return x * jax.nn.sigmoid(x * jnp.asarray(1.702, x.dtype))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": _quick_gelu,
}
"""What stands between the two layers of a perceptron: OpenAI's models have `quick_gelu`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """What a text encoder is made of; the defaults are those of Stable Diffusion 1, CLIP ViT-L/14.

    Attributes:
        vocab_size: number of tokens.
        hidden_size: features of a token, a multiple of `num_attention_heads`.
        intermediate_size: features inside a perceptron.
        num_hidden_layers: number of layers.
        num_attention_heads: of each attention.
        max_position_embeddings: the most tokens that a text may have.
        hidden_act: of `ACTIVATIONS`.
        layer_norm_eps: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "int":
                check_count(field.name, getattr(self, field.name))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}: it must be a multiple of num_attention_heads, "
                f"{self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act is {self.hidden_act!r}: only {' or '.join(ACTIVATIONS)} is supported"
            )
        check_range("layer_norm_eps", self.layer_norm_eps, 0.0, open_low=True)


def clip_text_config(entries: Mapping[str, Any]) -> ClipTextConfig:
    """The config that `transformers` writes beside a `CLIPTextModel`, as its `config.json` has it.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    taken = [field.name for field in dataclasses.fields(ClipTextConfig)]
    check_entries(
        entries,
        needed=taken,
        # How it was trained and stored, and what is made of its output elsewhere.
        optional=(
            *("initializer_factor", "initializer_range", "projection_dim", "dtype", "torch_dtype"),
            *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"),
        ),
        fixed={
            "architectures": (["CLIPTextModel"],),
            "model_type": ("clip_text_model",),
            "attention_dropout": (0.0, 0),
            "dropout": (0.0, 0),
            # Only an encoder that is told where a text ends would not see what it is padded with.
            "use_attention_mask": (False,),
        },
    )
    epsilon = number(entries, "layer_norm_eps", 1e-5)
    return ClipTextConfig(**{**{name: entries[name] for name in taken}, "layer_norm_eps": epsilon})


# ----------------------------------------------------------------------------------------- network


class _Embeddings(nnx.Module):
    def __init__(self, config: ClipTextConfig, make: Layers) -> None:
        self.token_embedding = make.embed(config.vocab_size, config.hidden_size)
        self.position_embedding = make.embed(config.max_position_embeddings, config.hidden_size)

    def __call__(self, ids: Array) -> Array:
        places = self.position_embedding(jnp.arange(ids.shape[1]))
        return self.token_embedding(ids) + places[None]


class _Attention(nnx.Module):
    """Each token asks those before it and itself."""

    def __init__(self, config: ClipTextConfig, make: Layers) -> None:
        size, self.num_heads = config.hidden_size, config.num_attention_heads
        self.q_proj = make.linear(size, size)
        self.k_proj = make.linear(size, size)
        self.v_proj = make.linear(size, size)
        self.out_proj = make.linear(size, size)

    def __call__(self, x: Array) -> Array:
        heads = (*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)
        query, key, value = (
            layer(x).reshape(heads) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attention(query, key, value, causal=True).reshape(x.shape))


class _Perceptron(nnx.Module):
    def __init__(self, config: ClipTextConfig, make: Layers) -> None:
        self.activation = config.hidden_act
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Array) -> Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class _Layer(nnx.Module):
    def __init__(self, config: ClipTextConfig, make: Layers) -> None:
        self.layer_norm1 = make.layer_norm(config.hidden_size)
        self.self_attn = _Attention(config, make)
        self.layer_norm2 = make.layer_norm(config.hidden_size)
        self.mlp = _Perceptron(config, make)

    def __call__(self, x: Array) -> Array:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Encoder(nnx.Module):
    def __init__(self, config: ClipTextConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        def layer(rngs: nnx.Rngs) -> _Layer:
            return _Layer(config, Layers(dtype, rngs, epsilon=config.layer_norm_eps))

        self.layers = Stacked(layer, config.num_hidden_layers, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.layers(x)


class ClipText(nnx.Module):
    """Tokens to features.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations and softmax are
            float32 in any case.
        rngs: of all weights.
    """

    def __init__(self, config: ClipTextConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> None:
        make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
        self.embeddings = _Embeddings(config, make)
        self.encoder = _Encoder(config, dtype, rngs)
        self.final_layer_norm = make.layer_norm(config.hidden_size)

    def __call__(self, ids: Array) -> Array:
        """The last hidden state, [n, length, hidden_size] float32.

        Args:
            ids: tokens [n, length] int32, from 0 to `vocab_size - 1`, `length` at most
                `max_position_embeddings`. All of them are seen, those of the padding too.
        """
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


# ------------------------------------------------------------------------------------------ in use


def clip_text_network(
    config: ClipTextConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], Array]:
    """`(params, ids [n, length]) -> [n, length, hidden_size]`, the same object each time.

    See `ClipText`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return _network(config, compute_type(dtype))


@functools.cache
def _network(config: ClipTextConfig, dtype: Any) -> Callable[..., Array]:
    return functional(lambda rngs: ClipText(config, dtype=dtype, rngs=rngs))


def load_clip_text(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[ClipTextConfig, PyTree]:
    """Reads a text encoder from a folder that `transformers` wrote: `text_encoder/` of a pipeline.

    Args:
        folder: with `config.json` and `model.safetensors`.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = clip_text_config(read_config(folder))
    path = weights_path(folder, OF_TRANSFORMERS)
    tensors = rename(read_weights(folder, OF_TRANSFORMERS), present_name)
    # Older files hold the numbers 0 to 76, by which the embeddings of places were looked up.
    tensors.pop("embeddings.position_ids", None)
    module = nnx.eval_shape(lambda: ClipText(config, dtype=compute_type(dtype), rngs=nnx.Rngs(0)))
    return config, load_state_dict(module, tensors, source=path)


def present_name(key: str) -> str:
    """The key by which a tensor goes since `transformers` 5; before, they began `text_model.`."""
    return key.removeprefix("text_model.")
