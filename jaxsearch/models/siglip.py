"""SigLIP and SigLIP 2 at a fixed resolution: images and texts as vectors that can be compared.

The files are folders of `transformers`: `google/siglip-so400m-patch14-384`,
`google/siglip2-base-patch16-224` and their like. Attributes are named as the keys there are.

References: Zhai, Mustafa, Kolesnikov, Beyer, *Sigmoid loss for language image pre-training*, 2023,
https://arxiv.org/abs/2303.15343; Tschannen, Gritsenko, Wang et al., *SigLIP 2: multilingual
vision-language encoders with improved semantic understanding, localization, and dense features*,
2025, https://arxiv.org/abs/2502.14786.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.attention import attention
from jaxsearch.models.clip_vision import check_images, check_patches
from jaxsearch.models.folders import (
    OF_ANY_MODEL,
    PLAIN_ENCODER,
    check_entries,
    number,
    part_of_config,
    read_config,
    read_weights,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import abstract_network, loaded_once, network_of
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.transformer import (
    ACTIVATIONS,
    Perceptron,
    TokenEmbeddings,
    Transformer,
    check_shape,
    without_places,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipTextConfig:
    """What a text encoder is made of; the defaults are those of `transformers`, SigLIP B/16's.

    Attributes:
        vocab_size: number of tokens.
        max_position_embeddings: how many tokens a text is padded to.
        projection_size: features of the embedding; None: `hidden_size`.
        hidden_size: features of a token, a multiple of `num_attention_heads`.
        intermediate_size: features inside a perceptron.
        num_hidden_layers: number of layers.
        num_attention_heads: of each attention.
        hidden_act: of `transformer.ACTIVATIONS`.
        layer_norm_eps: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """

    vocab_size: int = 32000
    max_position_embeddings: int = 64
    projection_size: int | None = None
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_shape(self, tuple(ACTIVATIONS))
        check_count("projection_size", self.features)

    @property
    def features(self) -> int:
        """Of the embedding."""
        return self.hidden_size if self.projection_size is None else self.projection_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipVisionConfig:
    """What an image encoder is made of; the defaults are those of `transformers`, SigLIP B/16's.

    Attributes:
        image_size: side of an image in pixels, at least `patch_size`.
        patch_size: side of the patch that becomes one token; pixels that are left over are not
            seen.
        num_channels: channels of an image.
        hidden_size: features of a token and of the embedding, a multiple of `num_attention_heads`.
        intermediate_size: features inside a perceptron.
        num_hidden_layers: number of layers.
        num_attention_heads: of each attention.
        hidden_act: of `transformer.ACTIVATIONS`.
        layer_norm_eps: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_shape(self, tuple(ACTIVATIONS))
        check_patches(self.image_size, self.patch_size)

    @property
    def num_patches(self) -> int:
        """How many tokens an image becomes."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """What a SigLIP is made of.

    Attributes:
        text: of the text encoder.
        vision: of the image encoder.

    Raises:
        ValueError: if their embeddings have different numbers of features.
    """

    text: SiglipTextConfig
    vision: SiglipVisionConfig

    def __post_init__(self) -> None:
        if self.text.features != self.vision.hidden_size:
            raise ValueError(
                f"embeddings of texts have {self.text.features} features and those of images "
                f"{self.vision.hidden_size}: projection_size must be hidden_size of the images"
            )


def siglip_config(entries: Mapping[str, Any]) -> SiglipConfig:
    """The config that `transformers` writes beside a `SiglipModel`, as its `config.json` has it.

    What it leaves out has the default of its class there.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    check_entries(
        entries,
        needed=(),
        optional=("text_config", "vision_config", *OF_ANY_MODEL),
        fixed={"architectures": (["SiglipModel"],), "model_type": ("siglip",)},
    )
    text = _part(entries, "text", SiglipTextConfig)
    # Without the head of attention there is no embedding.
    vision = _part(entries, "vision", SiglipVisionConfig, {"vision_use_head": (True,)})
    return SiglipConfig(text=text, vision=vision)


def _part(
    entries: Mapping[str, Any], part: str, kind: type, fixed: Mapping[str, tuple] | None = None
) -> Any:
    """The config of an encoder."""
    stated = part_of_config(entries, f"{part}_config")
    names = [field.name for field in dataclasses.fields(kind)]
    check_entries(
        stated,
        needed=(),
        optional=(*names, *OF_ANY_MODEL, "eos_token_id", "architectures"),
        fixed={**PLAIN_ENCODER, "model_type": (f"siglip_{part}_model",), **(fixed or {})},
    )
    epsilon = number(stated, "layer_norm_eps", 1e-6)
    taken = {name: stated[name] for name in names if name in stated}
    return kind(**{**taken, "layer_norm_eps": epsilon})


# ----------------------------------------------------------------------------------------- network


class _Probe(nnx.Module):
    """Attention of one query to all tokens, its three maps in one tensor as PyTorch's class has."""

    def __init__(self, config: SiglipVisionConfig, make: Layers) -> None:
        size, self.num_heads = config.hidden_size, config.num_attention_heads
        self.in_proj_weight = nnx.Param(jnp.zeros((3 * size, size), make.dtype))
        self.in_proj_bias = nnx.Param(jnp.zeros((3 * size,), make.dtype))
        self.out_proj = make.linear(size, size)

    def __call__(self, probe: Array, tokens: Array) -> Array:
        weights = jnp.split(self.in_proj_weight[...], 3)
        biases = jnp.split(self.in_proj_bias[...], 3)
        query, key, value = (
            self._heads(x.astype(weight.dtype) @ weight.T + bias[None, None])
            for x, weight, bias in zip((probe, tokens, tokens), weights, biases, strict=True)
        )
        query = jnp.broadcast_to(query, (len(tokens), *query.shape[1:]))
        mixed = attention(query, key, value)
        return self.out_proj(mixed.reshape(*mixed.shape[:2], -1))

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.num_heads, -1)


class _Head(nnx.Module):
    """One vector of all tokens: a learnt query asks them (Zhai et al. 2022, section 3.2)."""

    def __init__(self, config: SiglipVisionConfig, make: Layers) -> None:
        size = config.hidden_size
        self.probe = nnx.Param(jnp.zeros((1, 1, size), make.dtype))
        self.attention = _Probe(config, make)
        self.layernorm = make.layer_norm(size)
        self.mlp = Perceptron(config, make)

    def __call__(self, tokens: Array) -> Array:
        x = self.attention(self.probe[...], tokens).astype(jnp.float32)
        return (x + self.mlp(self.layernorm(x)).astype(jnp.float32))[:, 0]


class _Embeddings(nnx.Module):
    def __init__(self, config: SiglipVisionConfig, make: Layers) -> None:
        self.patch_embedding = make.patches(
            config.num_channels, config.hidden_size, config.patch_size
        )
        self.position_embedding = make.embed(config.num_patches, config.hidden_size)

    def __call__(self, images: Array) -> Array:
        patches = self.patch_embedding(images)
        tokens = patches.reshape(len(images), -1, patches.shape[-1])
        places = self.position_embedding(jnp.arange(tokens.shape[1]))
        return tokens.astype(jnp.float32) + places.astype(jnp.float32)[None]


class SiglipImages(nnx.Module):
    """Images to embeddings.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from layer to layer are float32 in any case.
        remat: whether a gradient computes each layer again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: SiglipVisionConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
        self.embeddings = _Embeddings(config, make)
        self.encoder = Transformer(config, dtype=dtype, remat=remat, rngs=rngs)
        self.post_layernorm = make.layer_norm(config.hidden_size)
        self.head = _Head(config, make)

    def __call__(self, images: Array) -> Array:
        """[n, hidden_size] float32, of any length.

        Args:
            images: [n, image_size, image_size, num_channels] float32, with the mean and standard
                deviation that the network was trained with.

        Raises:
            ValueError: if the images have another shape.
        """
        check_images(images, self.config.image_size, self.config.num_channels)
        return self.head(self.post_layernorm(self.encoder(self.embeddings(images))))


class SiglipTexts(nnx.Module):
    """Texts to embeddings; the arguments are those of `SiglipImages`."""

    def __init__(
        self, config: SiglipTextConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        size = config.hidden_size
        make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
        self.embeddings = TokenEmbeddings(
            config.vocab_size, config.max_position_embeddings, size, make
        )
        self.encoder = Transformer(config, dtype=dtype, rngs=rngs)
        self.final_layer_norm = make.layer_norm(size)
        self.head = make.linear(size, config.features)

    def __call__(self, ids: Array) -> Array:
        """[n, projection_size] float32, of any length.

        Args:
            ids: tokens [n, max_position_embeddings] int32, from 0 to `vocab_size - 1`, padded to
                the length: every token sees all others, and the last, be it padding, is read.
        """
        states = self.encoder(self.embeddings(ids))
        return self.head(self.final_layer_norm(states[:, -1])).astype(jnp.float32)


class Siglip(nnx.Module):
    """All weights of a SigLIP; its two halves are used apart."""

    def __init__(self, config: SiglipConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs) -> None:
        self.vision_model = SiglipImages(config.vision, dtype=dtype, rngs=rngs)
        self.text_model = SiglipTexts(config.text, dtype=dtype, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.zeros((1,), jnp.float32))
        self.logit_bias = nnx.Param(jnp.zeros((1,), jnp.float32))


# ------------------------------------------------------------------------------------------ in use


def siglip_image_network(
    config: SiglipVisionConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array], Array]:
    """`(params, images [n,h,w,c]) -> [n, hidden_size]`, the same object each time.

    See `SiglipImages`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(SiglipImages, config, dtype=compute_type(dtype), remat=bool(remat))


def siglip_text_network(
    config: SiglipTextConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], Array]:
    """`(params, ids [n, length]) -> [n, projection_size]`, the same object each time.

    See `SiglipTexts`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(SiglipTexts, config, dtype=compute_type(dtype))


class LoadedSiglip(NamedTuple):
    """A SigLIP as `load_siglip` reads it.

    An image and a text belong together with probability `sigmoid(exp(logit_scale) * cosine +
    logit_bias)` (Zhai et al. 2023, equation 2).
    """

    config: SiglipConfig
    images: PyTree  # weights of `siglip_image_network`
    texts: PyTree  # of `siglip_text_network`; on the host, where they wait for a text
    logit_scale: Array  # [] float32
    logit_bias: Array  # [] float32


@loaded_once
def load_siglip(folder: str | os.PathLike[str], *, dtype: Any = jnp.float32) -> LoadedSiglip:
    """Reads a SigLIP from a folder that `transformers` wrote.

    Args:
        folder: with `config.json` and `model.safetensors` or `pytorch_model.bin`, in one file or in
            several with their index.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device: the same objects for as long as
        the files do not change.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = siglip_config(read_config(folder))
    tensors = without_places(read_weights(folder, OF_TRANSFORMERS))
    dtype = compute_type(dtype)
    module = abstract_network(Siglip, config, dtype=dtype)
    params = load_state_dict(module, tensors, source=weights_path(folder, OF_TRANSFORMERS))
    # Whoever loads inside a traced function gets arrays all the same, fit to be kept in a cache.
    with jax.ensure_compile_time_eval():
        scale, bias = params["logit_scale"][0], params["logit_bias"][0]
    texts = jax.device_get(params["text_model"])
    return LoadedSiglip(config, params["vision_model"], texts, scale, bias)
