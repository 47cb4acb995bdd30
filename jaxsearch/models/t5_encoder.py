"""The encoder of T5 1.1 (Raffel et al. 2020), as text-to-image models are told long prompts.

Attributes are named as the keys of `transformers` are, but for the table of distances, which the
first block has for all of them and which stands beside the blocks here.

Reference: Raffel, Shazeer, Roberts et al., *Exploring the limits of transfer learning with a
unified text-to-text transformer*, 2020, section 2.1, https://arxiv.org/abs/1910.10683; the gated
perceptron is that of Shazeer, *GLU variants improve transformer*, 2020.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.attention import attention
from jaxsearch.models.folders import (
    OF_ANY_MODEL,
    PLAIN_ENCODER,
    check_entries,
    number,
    read_config,
    read_weights,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import abstract_network, network_of
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5EncoderConfig:
    """What an encoder is made of; the defaults are those of T5 1.1 XXL.

    Attributes:
        vocab_size: number of tokens.
        d_model: features of a token.
        d_kv: channels of a head.
        d_ff: features inside a perceptron.
        num_layers: number of blocks.
        num_heads: of each attention.
        relative_attention_num_buckets: classes of distance, an even number from 4.
        relative_attention_max_distance: from which on distances are one class, more than a quarter
            of their number.
        layer_norm_epsilon: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range.
    """

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
            check_count(name, getattr(self, name))
        buckets = self.relative_attention_num_buckets
        check_count("relative_attention_num_buckets", buckets, 4)
        if buckets % 2:
            raise ValueError(f"relative_attention_num_buckets is {buckets}: it must be even")
        check_count(
            "relative_attention_max_distance",
            self.relative_attention_max_distance,
            buckets // 4 + 1,
        )
        check_range("layer_norm_epsilon", self.layer_norm_epsilon, 0.0, open_low=True)


def t5_encoder_config(entries: Mapping[str, Any]) -> T5EncoderConfig:
    """The config that `transformers` writes beside a `T5EncoderModel`.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    needed = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    optional = {
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    }
    check_entries(
        entries,
        needed=(*needed, "feed_forward_proj"),
        optional=(
            *optional,
            *("layer_norm_epsilon", "dropout_rate", "classifier_dropout", "num_decoder_layers"),
            *("eos_token_id", "n_positions", "output_past", "use_cache", "scale_decoder_outputs"),
            *OF_ANY_MODEL,
        ),
        fixed={
            **PLAIN_ENCODER,
            "architectures": (["T5EncoderModel"],),
            "model_type": ("t5",),
            "feed_forward_proj": ("gated-gelu",),
            "dense_act_fn": ("gelu_new",),
            "is_gated_act": (True,),
            "is_encoder_decoder": (True, False),
        },
    )
    return T5EncoderConfig(
        **{name: entries[name] for name in needed},
        **{name: entries.get(name, default) for name, default in optional.items()},
        layer_norm_epsilon=number(entries, "layer_norm_epsilon", 1e-6),
    )


# ----------------------------------------------------------------------------------------- network


def distance_classes(length: int, num: int, farthest: int) -> np.ndarray:
    """The class of each pair of places, [length, length] int32: who asks, who is asked.

    Half of the classes are for those that come later. Of each half the first half are distances by
    themselves, and the rest grow by their logarithm up to `farthest`.
    """
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
    half, distance = num // 2, np.abs(offsets)
    exact = half // 2
    # In float32 as the original: at the edges of classes the last bit decides.
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(farthest / exact)) * np.float32(half - exact)
    far = np.minimum(exact + growth.astype(np.int64), half - 1)
    found = half * (offsets > 0) + np.where(distance < exact, distance, far)
    return found.astype(np.int32)


class _SelfAttention(nnx.Module):
    def __init__(self, config: T5EncoderConfig, make: Layers) -> None:
        self.num_heads, inner = config.num_heads, config.num_heads * config.d_kv
        self.q = make.linear(config.d_model, inner, use_bias=False)
        self.k = make.linear(config.d_model, inner, use_bias=False)
        self.v = make.linear(config.d_model, inner, use_bias=False)
        self.o = make.linear(inner, config.d_model, use_bias=False)

    def __call__(self, x: Array, bias: Array, seen: Array) -> Array:
        query, key, value = (
            layer(x).reshape(*x.shape[:2], self.num_heads, -1) for layer in (self.q, self.k, self.v)
        )
        mixed = attention(query, key, value, bias=bias, seen=seen, scale=1.0)
        return self.o(mixed.reshape(*x.shape[:2], -1))


class _Perceptron(nnx.Module):
    def __init__(self, config: T5EncoderConfig, make: Layers) -> None:
        self.wi_0 = make.linear(config.d_model, config.d_ff, use_bias=False)
        self.wi_1 = make.linear(config.d_model, config.d_ff, use_bias=False)
        self.wo = make.linear(config.d_ff, config.d_model, use_bias=False)

    def __call__(self, x: Array) -> Array:
        return self.wo(jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))


class _AttentionLayer(nnx.Module):
    def __init__(self, config: T5EncoderConfig, make: Layers) -> None:
        self.SelfAttention = _SelfAttention(config, make)
        self.layer_norm = make.rms_norm(config.d_model)

    def __call__(self, x: Array, bias: Array, seen: Array) -> Array:
        return x + self.SelfAttention(self.layer_norm(x), bias, seen).astype(x.dtype)


class _PerceptronLayer(nnx.Module):
    def __init__(self, config: T5EncoderConfig, make: Layers) -> None:
        self.DenseReluDense = _Perceptron(config, make)
        self.layer_norm = make.rms_norm(config.d_model)

    def __call__(self, x: Array) -> Array:
        return x + self.DenseReluDense(self.layer_norm(x)).astype(x.dtype)


class _Block(nnx.Module):
    def __init__(self, config: T5EncoderConfig, make: Layers) -> None:
        layers: list[Any] = [_AttentionLayer(config, make), _PerceptronLayer(config, make)]
        self.layer = nnx.List(layers)

    def __call__(self, x: Array, bias: Array, seen: Array) -> Array:
        return self.layer[1](self.layer[0](x, bias, seen))


class _Encoder(nnx.Module):
    def __init__(self, config: T5EncoderConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        def make(rngs: nnx.Rngs) -> Layers:
            return Layers(dtype, rngs, epsilon=config.layer_norm_epsilon)

        self.relative_attention_bias = make(rngs).embed(
            config.relative_attention_num_buckets, config.num_heads
        )
        self.block = Stacked(lambda rngs: _Block(config, make(rngs)), config.num_layers, rngs=rngs)
        self.final_layer_norm = make(rngs).rms_norm(config.d_model)


class T5Encoder(nnx.Module):
    """Tokens to features.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from block to block are float32 in any case.
        rngs: of all weights.
    """

    def __init__(
        self, config: T5EncoderConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.shared = Layers(dtype, rngs).embed(config.vocab_size, config.d_model)
        self.encoder = _Encoder(config, dtype, rngs)

    def __call__(self, ids: Array, seen: Array) -> Array:
        """The last hidden state, [n, length, d_model] float32.

        Args:
            ids: tokens [n, length] int32, from 0 to `vocab_size - 1`.
            seen: [n, length] bool, which of them are no padding; one at least in each row.
        """
        config = self.config
        classes = distance_classes(
            ids.shape[1],
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        bias = self.encoder.relative_attention_bias(jnp.asarray(classes)).astype(jnp.float32)
        x = self.shared(ids).astype(jnp.float32)
        x = self.encoder.block(x, jnp.transpose(bias, (2, 0, 1)), seen)
        return self.encoder.final_layer_norm(x)


# ------------------------------------------------------------------------------------------ in use


def t5_encoder_network(
    config: T5EncoderConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array, Array], Array]:
    """`(params, ids [n, length], seen) -> [n, length, d_model]`, the same object each time.

    See `T5Encoder`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(T5Encoder, config, dtype=compute_type(dtype))


def load_t5_encoder(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[T5EncoderConfig, PyTree]:
    """Reads an encoder from a folder that `transformers` wrote: `text_encoder/` of a pipeline.

    Args:
        folder: with `config.json` and `model.safetensors`, in one file or in several with an index.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = t5_encoder_config(read_config(folder))
    tensors = present_names(read_weights(folder, OF_TRANSFORMERS))
    module = abstract_network(T5Encoder, config, dtype=compute_type(dtype))
    path = weights_path(folder, OF_TRANSFORMERS)
    return config, load_state_dict(module, tensors, source=path)


_DISTANCES = "relative_attention_bias.weight"
_FIRST_BLOCK = "encoder.block.0.layer.0.SelfAttention."
_TABLES = ("shared.weight", "encoder.embed_tokens.weight")


def present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names of `T5Encoder`: one table of tokens, and distances for all blocks.

    Files name the table of tokens by one of two keys, or by both.

    Raises:
        ValueError: if both are there and differ.
    """
    found = dict(tensors)
    if all(name in found for name in _TABLES):
        if not np.array_equal(found[_TABLES[0]], found[_TABLES[1]]):
            raise ValueError(f"{_TABLES[0]} and {_TABLES[1]} differ, but must be the same")
        del found[_TABLES[1]]
    elif _TABLES[1] in found:
        found[_TABLES[0]] = found.pop(_TABLES[1])
    if _FIRST_BLOCK + _DISTANCES in found:
        found["encoder." + _DISTANCES] = found.pop(_FIRST_BLOCK + _DISTANCES)
    return found
