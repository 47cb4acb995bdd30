"""The image encoder of CLIP (Radford et al. 2021): a vision transformer (Dosovitskiy et al. 2021).

Attributes are named as the keys of `transformers` are: `encoder.layers.0.self_attn.q_proj`,
`pre_layrnorm`.

References: Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
supervision*, 2021, section 2.4, https://arxiv.org/abs/2103.00020; Dosovitskiy, Beyer, Kolesnikov et
al., *An image is worth 16x16 words*, 2021, section 3.1, https://arxiv.org/abs/2010.11929.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.types import Array
from jaxsearch.models.clip_text import ACTIVATIONS
from jaxsearch.models.layers import Layers
from jaxsearch.models.transformer import Transformer, check_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipVisionConfig:
    """What an image encoder is made of; the defaults are ViT-B/32's, as those of `transformers`.

    Attributes:
        image_size: side of an image in pixels, at least `patch_size`.
        patch_size: side of the patch that becomes one token; pixels that are left over are not
            seen.
        num_channels: channels of an image.
        hidden_size: features of a token, a multiple of `num_attention_heads`.
        intermediate_size: features inside a perceptron.
        num_hidden_layers: number of layers.
        num_attention_heads: of each attention.
        hidden_act: of `ACTIVATIONS`.
        layer_norm_eps: of all normalisations, above 0.

    Raises:
        ValueError: if a number is out of its range, or the activation is unknown.
    """

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_shape(self, ACTIVATIONS)
        check_patches(self.image_size, self.patch_size)

    @property
    def num_patches(self) -> int:
        """How many tokens an image becomes, without that of the class."""
        return (self.image_size // self.patch_size) ** 2


def check_patches(image_size: int, patch_size: int) -> None:
    """Refuses images that are smaller than a patch.

    Raises:
        ValueError: if they are.
    """
    if image_size < patch_size:
        raise ValueError(
            f"image_size is {image_size}: it must be at least patch_size, {patch_size}"
        )


def check_images(images: Array, image_size: int, num_channels: int) -> None:
    """Refuses what is no batch of images of the size that a network was trained at.

    Raises:
        ValueError: if their shape is another one.
    """
    wanted = (image_size, image_size, num_channels)
    if images.ndim != 4 or images.shape[1:] != wanted:
        raise ValueError(
            f"images have the shape {images.shape}: the network needs [n, {image_size}, "
            f"{image_size}, {num_channels}], so resize them first"
        )


class _Embeddings(nnx.Module):
    def __init__(self, config: ClipVisionConfig, make: Layers) -> None:
        size = config.hidden_size
        self.class_embedding = nnx.Param(jnp.zeros((size,), make.dtype))
        self.patch_embedding = make.patches(
            config.num_channels, size, config.patch_size, use_bias=False
        )
        self.position_embedding = make.embed(config.num_patches + 1, size)

    def __call__(self, images: Array) -> Array:
        patches = self.patch_embedding(images)
        num, _, _, size = patches.shape
        first = jnp.broadcast_to(self.class_embedding[...], (num, 1, size))
        tokens = jnp.concatenate([first, patches.reshape(num, -1, size)], axis=1)
        return tokens + self.position_embedding(jnp.arange(tokens.shape[1]))[None]


class ClipVision(nnx.Module):
    """Images to features.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from layer to layer are float32 in any case.
        remat: whether a gradient computes each layer again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: ClipVisionConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        make = Layers(dtype, rngs, epsilon=config.layer_norm_eps)
        self.embeddings = _Embeddings(config, make)
        self.pre_layrnorm = make.layer_norm(config.hidden_size)
        self.encoder = Transformer(config, dtype=dtype, remat=remat, rngs=rngs)
        self.post_layernorm = make.layer_norm(config.hidden_size)

    def __call__(self, images: Array) -> Array:
        """The normalised last state of the class token, [n, hidden_size] float32.

        Args:
            images: [n, image_size, image_size, num_channels] float32, with the mean and standard
                deviation that the network was trained with.

        Raises:
            ValueError: if the images have another shape.
        """
        check_images(images, self.config.image_size, self.config.num_channels)
        tokens = self.encoder(self.pre_layrnorm(self.embeddings(images)))
        return self.post_layernorm(tokens[:, 0])
