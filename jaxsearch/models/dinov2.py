"""DINOv2 (Oquab et al. 2023): features of images learnt without labels, and linear classifiers.

Attributes are named as the keys of the original files are: `blocks.0.attn.qkv`. `transformers` has
the same weights under other names; `original_names` undoes that.

References: Oquab, Darcet, Moutakanni et al., *DINOv2: learning robust visual features without
supervision*, 2023, https://arxiv.org/abs/2304.07193; Darcet, Oquab, Mairal, Bojanowski, *Vision
transformers need registers*, 2023, https://arxiv.org/abs/2309.16588.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.clip_vision import check_images, check_patches
from jaxsearch.models.configs import LARGEST_SIDE
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import functional
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.transformer import JointAttention


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dinov2Config:
    """What a DINOv2 is made of; the defaults are ViT-B/14's on images of 224x224 pixels.

    Attributes:
        image_size: side of the images that it is asked about, a multiple of `patch_size`. Training
            ended at 518; what it learnt of places is resized where weights are loaded.
        patch_size: side of the patch that becomes one token.
        num_channels: channels of an image.
        hidden_size: features of a token, a multiple of `num_heads`.
        intermediate_size: features inside a perceptron; of a gated one, of each of its halves.
        depth: number of blocks.
        num_heads: of each attention.
        gated: whether the perceptrons are SwiGLU's (Shazeer 2020), as ViT-g/14's are.
        num_registers: tokens beside those of class and patches, which nobody reads.
        norm_epsilon: of all normalisations, above 0.
        mask_token: whether the weights have the token that training puts in place of a patch.

    Raises:
        ValueError: if a number is out of its range.
    """

    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    hidden_size: int = 768
    intermediate_size: int = 3072
    depth: int = 12
    num_heads: int = 12
    gated: bool = False
    num_registers: int = 0
    norm_epsilon: float = 1e-6
    mask_token: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "int":
                low = 0 if field.name == "num_registers" else 1
                check_count(field.name, getattr(self, field.name), low)
        check_count("image_size", self.image_size, high=LARGEST_SIDE * self.patch_size)
        check_patches(self.image_size, self.patch_size)
        for name, divisor in (("hidden_size", self.num_heads), ("image_size", self.patch_size)):
            if getattr(self, name) % divisor:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: it must be a multiple of {divisor}"
                )
        check_range("norm_epsilon", self.norm_epsilon, 0.0, open_low=True)

    @property
    def grid(self) -> int:
        """How many patches stand side by side."""
        return self.image_size // self.patch_size


class _Patches(nnx.Module):
    def __init__(self, config: Dinov2Config, make: Layers) -> None:
        self.proj = make.patches(config.num_channels, config.hidden_size, config.patch_size)

    def __call__(self, images: Array) -> Array:
        patches = self.proj(images)
        return patches.reshape(len(images), -1, patches.shape[-1])


class _Perceptron(nnx.Module):
    def __init__(self, config: Dinov2Config, make: Layers) -> None:
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Array) -> Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class _GatedPerceptron(nnx.Module):
    """`w3(silu(a) * b)`, where `w12` makes `a` and `b` (Shazeer 2020, equation 6)."""

    def __init__(self, config: Dinov2Config, make: Layers) -> None:
        self.w12 = make.linear(config.hidden_size, 2 * config.intermediate_size)
        self.w3 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Array) -> Array:
        gate, value = jnp.split(self.w12(x), 2, axis=-1)
        return self.w3(jax.nn.silu(gate) * value)


class _Scale(nnx.Module):
    """A number for each feature (Touvron et al. 2021, equation 4)."""

    def __init__(self, config: Dinov2Config) -> None:
        self.gamma = nnx.Param(jnp.ones((config.hidden_size,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        return x.astype(jnp.float32) * self.gamma[...][None, None]


class _Block(nnx.Module):
    def __init__(self, config: Dinov2Config, make: Layers) -> None:
        self.norm1 = make.layer_norm(config.hidden_size)
        self.attn = JointAttention(config.hidden_size, config.num_heads, make)
        self.ls1 = _Scale(config)
        self.norm2 = make.layer_norm(config.hidden_size)
        self.mlp = (_GatedPerceptron if config.gated else _Perceptron)(config, make)
        self.ls2 = _Scale(config)

    def __call__(self, x: Array) -> Array:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Dinov2(nnx.Module):
    """Images to features.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from block to block are float32 in any case.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: Dinov2Config,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, size = config, config.hidden_size
        make = Layers(dtype, rngs, epsilon=config.norm_epsilon)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, size), jnp.float32))
        self.pos_embed = nnx.Param(jnp.zeros((1, 1 + config.grid**2, size), jnp.float32))
        if config.num_registers:
            registers = jnp.zeros((1, config.num_registers, size), jnp.float32)
            self.register_tokens = nnx.Param(registers)
        if config.mask_token:
            self.mask_token = nnx.Param(jnp.zeros((1, size), jnp.float32))
        self.patch_embed = _Patches(config, make)
        self.blocks = Stacked(
            lambda rngs: _Block(config, Layers(dtype, rngs, epsilon=config.norm_epsilon)),
            config.depth,
            remat=remat,
            rngs=rngs,
        )
        self.norm = make.layer_norm(size)

    def __call__(self, images: Array) -> Array:
        """The normalised last state of the class token, [n, hidden_size] float32.

        Args:
            images: [n, image_size, image_size, num_channels] float32, with the mean and standard
                deviation that the network was trained with.

        Raises:
            ValueError: if the images have another shape.
        """
        return self.norm(self.blocks(self._tokens(images))[:, 0])

    def summary(self, images: Array, layers: int) -> Array:
        """What the published classifiers read, [n, (layers + 1) * hidden_size] float32.

        The class token after each of the last `layers` blocks, then the mean of the patches after
        the last, all normalised (Oquab et al. 2023, appendix B.3).
        """
        last, classes = self.blocks.watched(self._tokens(images), lambda x: x[:, 0])
        patches = self.norm(last[:, 1 + self.config.num_registers :])
        each = [self.norm(one) for one in classes[-layers:]]
        return jnp.concatenate([*each, jnp.mean(patches, axis=1)], axis=1)

    def _tokens(self, images: Array) -> Array:
        """[n, 1 + num_registers + grid*grid, hidden_size]: class, registers, patches."""
        check_images(images, self.config.image_size, self.config.num_channels)
        patches = self.patch_embed(images).astype(jnp.float32)
        num, size = len(images), self.config.hidden_size
        places = self.pos_embed[...]
        first = [jnp.broadcast_to(self.cls_token[...] + places[:, :1], (num, 1, size))]
        if self.config.num_registers:  # they are nowhere
            registers = self.register_tokens[...]
            first.append(jnp.broadcast_to(registers, (num, *registers.shape[1:])))
        return jnp.concatenate([*first, patches + places[:, 1:]], axis=1)


class Dinov2Classifier(nnx.Module):
    """Images to logits of classes, linear in `Dinov2.summary`.

    Args:
        config: what the network is made of.
        layers: of how many blocks the classifier reads the class token.
        num_classes: how many there are.
        dtype: as of `Dinov2`.
        remat: as of `Dinov2`.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: Dinov2Config,
        layers: int,
        num_classes: int,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.layers = layers
        self.backbone = Dinov2(config, dtype=dtype, remat=remat, rngs=rngs)
        self.head = Layers(jnp.float32, rngs).linear((1 + layers) * config.hidden_size, num_classes)

    def __call__(self, images: Array) -> Array:
        """Logits [n, num_classes] float32 of images as `Dinov2` takes them."""
        return self.head(self.backbone.summary(images, self.layers))


# ------------------------------------------------------------------------------------------ in use


def dinov2_network(
    config: Dinov2Config, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array], Array]:
    """`(params, images [n,h,w,c]) -> [n, hidden_size]`, the same object each time.

    See `Dinov2`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return _network(config, compute_type(dtype), bool(remat))


@functools.cache
def _network(config: Dinov2Config, dtype: Any, remat: bool) -> Callable[..., Array]:
    return functional(lambda rngs: Dinov2(config, dtype=dtype, remat=remat, rngs=rngs))


def dinov2_classifier_network(
    config: Dinov2Config,
    layers: int,
    num_classes: int,
    *,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Callable[[PyTree, Array], Array]:
    """`(params, images [n,h,w,c]) -> logits [n, num_classes]`, the same object each time.

    Its parameters are `{"backbone": of the network, "head": of the classifier}`. See
    `Dinov2Classifier`.

    Raises:
        ValueError: if a number is out of its range, or the type neither float32 nor bfloat16.
    """
    check_count("layers", layers, high=config.depth)
    check_count("num_classes", num_classes)
    return _classifier(config, layers, num_classes, compute_type(dtype), bool(remat))


@functools.cache
def _classifier(
    config: Dinov2Config, layers: int, num_classes: int, dtype: Any, remat: bool
) -> Callable[..., Array]:
    return functional(
        lambda rngs: Dinov2Classifier(
            config, layers, num_classes, dtype=dtype, remat=remat, rngs=rngs
        )
    )
