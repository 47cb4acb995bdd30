"""The text encoder of CLIP (Radford et al. 2021), as text-to-image models are told their prompts.

Attributes are named as the keys of `transformers` are, without the `text_model.` that files of its
fourth version begin them with: `encoder.layers.0.self_attn.q_proj`.

Reference: Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
supervision*, 2021, section 2.4, https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.folders import (
    check_entries,
    number,
    read_config,
    read_weights,
    rename,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import abstract_network, network_of
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.transformer import (
    TokenEmbeddings,
    Transformer,
    check_shape,
    without_places,
)

ACTIVATIONS = ("gelu", "quick_gelu")
"""Of the published models: OpenAI's have `quick_gelu`."""


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
        check_shape(self, ACTIVATIONS)


def clip_text_config(
    entries: Mapping[str, Any], *, architecture: str = "CLIPTextModel"
) -> ClipTextConfig:
    """The config that `transformers` writes beside a `CLIPTextModel`, as its `config.json` has it.

    Args:
        entries: of the file.
        architecture: the class that it must be of.

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
            "architectures": ([architecture],),
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
        self.embeddings = TokenEmbeddings(
            config.vocab_size, config.max_position_embeddings, config.hidden_size, make
        )
        self.encoder = Transformer(config, causal=True, dtype=dtype, rngs=rngs)
        self.final_layer_norm = make.layer_norm(config.hidden_size)

    def __call__(self, ids: Array) -> Array:
        """The last hidden state, [n, length, hidden_size] float32.

        Args:
            ids: tokens [n, length] int32, from 0 to `vocab_size - 1`, `length` at most
                `max_position_embeddings`. All of them are seen, those of the padding too.
        """
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))


def pooled(states: Array, ids: Array, end: int | None) -> Array:
    """The states [n, features] of the tokens that texts end with, where they are read as a whole.

    Args:
        states: [n, length, features].
        ids: tokens [n, length] int32. A text without its end is read at its first token.
        end: the token that a text ends with, at whose first place it is read; None: its largest
            token's first place.
    """
    place = jnp.argmax(ids if end is None else ids == end, axis=1)
    return jnp.take_along_axis(states, place[:, None, None], axis=1)[:, 0]


_READ_BY_NOBODY = 2
_END = 49407


def end_of(entries: Mapping[str, Any]) -> int | None:
    """The token that texts end with, for `pooled`, as a config has it.

    With the number 2, which is a letter, configs were written before `transformers` read it.
    """
    end = entries.get("eos_token_id", _END)
    return None if end == _READ_BY_NOBODY else end


# ------------------------------------------------------------------------------------------ in use


def clip_text_network(
    config: ClipTextConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], Array]:
    """`(params, ids [n, length]) -> [n, length, hidden_size]`, the same object each time.

    See `ClipText`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(ClipText, config, dtype=compute_type(dtype))


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
    module = abstract_network(ClipText, config, dtype=compute_type(dtype))
    return config, load_state_dict(module, without_places(tensors), source=path)


def present_name(key: str) -> str:
    """The key by which a tensor goes since `transformers` 5; before, they began `text_model.`."""
    return key.removeprefix("text_model.")
