"""BLIP's encoders (Li et al. 2022): of images, and of texts that look at an image.

The image encoder is a vision transformer (Dosovitskiy et al. 2021) and the text encoder BERT
(Devlin et al. 2019) with a cross-attention in each layer. Attributes are named as the keys of
BLIP's own files are: `blocks.0.attn.qkv`, `encoder.layer.0.crossattention.self.query`.

References: Li, Li, Xiong, Hoi, *BLIP: bootstrapping language-image pre-training*, 2022, section
3.1, https://arxiv.org/abs/2201.12086; Devlin, Chang, Lee, Toutanova, *BERT*, 2019, section 3,
https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.clip_vision import check_images, check_patches
from jaxsearch.models.layers import Layers
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.transformer import ACTIVATIONS, JointAttention, Perceptron, check_shape

_ACTIVATIONS = ("gelu",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlipVisionConfig:
    """What an image encoder is made of; the defaults are those of the large BLIP, ViT-L/16.

    Attributes:
        image_size: side of an image in pixels, at least `patch_size`.
        patch_size: side of the patch that becomes one token.
        num_channels: channels of an image.
        hidden_size: features of a token, a multiple of `num_attention_heads`.
        intermediate_size: features inside a perceptron.
        num_hidden_layers: number of layers.
        num_attention_heads: of each attention.
        hidden_act: `"gelu"`.
        layer_norm_eps: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_shape(self, _ACTIVATIONS)
        check_patches(self.image_size, self.patch_size)

    @property
    def num_patches(self) -> int:
        """How many tokens an image becomes, without that of the class."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlipTextConfig:
    """What a text encoder is made of; the defaults are those of BERT-base with BLIP's two tokens.

    Attributes:
        vocab_size: number of tokens.
        hidden_size: features of a token, a multiple of `num_attention_heads`.
        intermediate_size: features inside a perceptron.
        num_hidden_layers: number of layers.
        num_attention_heads: of each attention.
        max_position_embeddings: the most tokens that a text may have.
        hidden_act: `"gelu"`.
        layer_norm_eps: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """

    vocab_size: int = 30524
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        check_shape(self, _ACTIVATIONS)


# ------------------------------------------------------------------------------------------ images


class _Patches(nnx.Module):
    def __init__(self, config: BlipVisionConfig, make: Layers) -> None:
        self.proj = make.patches(config.num_channels, config.hidden_size, config.patch_size)

    def __call__(self, images: Array) -> Array:
        patches = self.proj(images)
        return patches.reshape(len(images), -1, patches.shape[-1])


class _Block(nnx.Module):
    def __init__(self, config: BlipVisionConfig, make: Layers) -> None:
        self.norm1 = make.layer_norm(config.hidden_size)
        self.attn = JointAttention(config.hidden_size, config.num_attention_heads, make)
        self.norm2 = make.layer_norm(config.hidden_size)
        self.mlp = Perceptron(config, make)

    def __call__(self, x: Array) -> Array:
        x = x + self.attn(self.norm1(x)).astype(x.dtype)
        return x + self.mlp(self.norm2(x)).astype(x.dtype)


class BlipImages(nnx.Module):
    """Images to the features of their patches.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from layer to layer are float32 in any case.
        remat: whether a gradient computes each layer again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: BlipVisionConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, size = config, config.hidden_size
        make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, size), jnp.float32))
        self.pos_embed = nnx.Param(jnp.zeros((1, 1 + config.num_patches, size), jnp.float32))
        self.patch_embed = _Patches(config, make)
        self.blocks = Stacked(
            lambda rngs: _Block(config, Layers(dtype, rngs, epsilon=config.layer_norm_eps)),
            config.num_hidden_layers,
            remat=remat,
            rngs=rngs,
        )
        self.norm = make.layer_norm(size)

    def __call__(self, images: Array) -> Array:
        """The normalised last states, [n, 1 + num_patches, hidden_size] float32, the class first.

        Args:
            images: [n, image_size, image_size, num_channels] float32, with the mean and standard
                deviation that the network was trained with.

        Raises:
            ValueError: if the images have another shape.
        """
        return self.norm(self.blocks(self.tokens(images)))

    def tokens(self, images: Array) -> Array:
        """What the first layer is given, [n, 1 + num_patches, hidden_size] float32."""
        check_images(images, self.config.image_size, self.config.num_channels)
        patches = self.patch_embed(images).astype(jnp.float32)
        first = jnp.broadcast_to(self.cls_token[...], (len(images), 1, patches.shape[-1]))
        return jnp.concatenate([first, patches], axis=1) + self.pos_embed[...]


# ------------------------------------------------------------------------------------------- texts


class _Heads(nnx.Module):
    """Each token asks those of a source, which may be its own text."""

    def __init__(self, config: BlipTextConfig, source_size: int, make: Layers) -> None:
        self.num_heads = config.num_attention_heads
        self.query = make.linear(config.hidden_size, config.hidden_size)
        self.key = make.linear(source_size, config.hidden_size)
        self.value = make.linear(source_size, config.hidden_size)

    def __call__(self, x: Array, source: Array, seen: Array | None) -> Array:
        query, key, value = (
            layer(given).reshape(*given.shape[:2], self.num_heads, -1)
            for layer, given in ((self.query, x), (self.key, source), (self.value, source))
        )
        return attention(query, key, value, seen=seen).reshape(x.shape)


class _Added(nnx.Module):
    """A linear layer whose output is added to what came before, and normalised after."""

    def __init__(self, inner: int, config: BlipTextConfig, make: Layers) -> None:
        self.dense = make.linear(inner, config.hidden_size)
        self.LayerNorm = make.layer_norm(config.hidden_size)

    def __call__(self, x: Array, before: Array) -> Array:
        return self.LayerNorm(self.dense(x).astype(before.dtype) + before)


class _Attention(nnx.Module):
    def __init__(self, config: BlipTextConfig, source_size: int, make: Layers) -> None:
        self.self = _Heads(config, source_size, make)
        self.output = _Added(config.hidden_size, config, make)

    def __call__(self, x: Array, source: Array, seen: Array | None = None) -> Array:
        return self.output(self.self(x, source, seen), x)


class _Dense(nnx.Module):
    def __init__(self, config: BlipTextConfig, make: Layers) -> None:
        self.activation = config.hidden_act
        self.dense = make.linear(config.hidden_size, config.intermediate_size)

    def __call__(self, x: Array) -> Array:
        return ACTIVATIONS[self.activation](self.dense(x))


class _Layer(nnx.Module):
    def __init__(self, config: BlipTextConfig, image_size: int, make: Layers) -> None:
        self.attention = _Attention(config, config.hidden_size, make)
        self.crossattention = _Attention(config, image_size, make)
        self.intermediate = _Dense(config, make)
        self.output = _Added(config.intermediate_size, config, make)

    def __call__(self, x: Array, seen: Array, images: Array) -> Array:
        x = self.crossattention(self.attention(x, x, seen), images)
        return self.output(self.intermediate(x), x)


class _Encoder(nnx.Module):
    def __init__(
        self, config: BlipTextConfig, image_size: int, dtype: Any, remat: bool, rngs: nnx.Rngs
    ) -> None:
        def layer(rngs: nnx.Rngs) -> _Layer:
            make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
            return _Layer(config, image_size, make)

        self.layer = Stacked(layer, config.num_hidden_layers, remat=remat, rngs=rngs)


class _Embeddings(nnx.Module):
    def __init__(self, config: BlipTextConfig, make: Layers) -> None:
        self.word_embeddings = make.embed(config.vocab_size, config.hidden_size)
        self.position_embeddings = make.embed(config.max_position_embeddings, config.hidden_size)
        self.LayerNorm = make.layer_norm(config.hidden_size)

    def __call__(self, ids: Array) -> Array:
        words = self.word_embeddings(ids).astype(jnp.float32)
        places = self.position_embeddings(jnp.arange(ids.shape[1])).astype(jnp.float32)
        return self.LayerNorm(words + places[None])


class BlipTexts(nnx.Module):
    """Texts that look at an image each, to features.

    Args:
        config: what it is made of.
        image_size: features of the images' tokens.

    The other arguments are those of `BlipImages`.
    """

    def __init__(
        self,
        config: BlipTextConfig,
        image_size: int,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
        self.embeddings = _Embeddings(config, make)
        self.encoder = _Encoder(config, image_size, dtype, remat, rngs)

    def __call__(self, ids: Array, images: Array) -> Array:
        """The last states, [n, length, hidden_size] float32.

        Args:
            ids: tokens [n, length] int32, from 0 to `vocab_size - 1`, and below 0 after the last
                one of a text. What stands there is seen by no token, and its own state means
                nothing.
            images: tokens of images [n, tokens, image_size], all of which are seen.
        """
        return self.encoder.layer(self.states(ids), self.seen(ids), images)

    def states(self, ids: Array) -> Array:
        """What the first layer is given, [n, length, hidden_size] float32."""
        return self.embeddings(jnp.maximum(ids, 0))

    def seen(self, ids: Array) -> Array:
        """Which places hold a token of a text, [n, length] bool."""
        return ids >= 0
