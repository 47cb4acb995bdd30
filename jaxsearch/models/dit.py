"""The diffusion transformer DiT (Peebles & Xie 2023): network, weights and denoiser.

Attributes are named as the keys of the original files are: `blocks.0.attn.qkv`. `diffusers` has the
same weights under other names; `original_names` undoes that.

Reference: Peebles, Xie, *Scalable diffusion models with transformers*, 2023,
https://arxiv.org/abs/2212.09748.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.process import variance_preserving
from jaxsearch.core.types import Array, Denoiser, PyTree
from jaxsearch.models.configs import LARGEST_SIDE
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.epsilon import epsilon_denoiser
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import functional
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.transformer import JointAttention

_EPSILON = 1e-6  # of the normalisations
_TIME_FEATURES = 256
_LONGEST_PERIOD = 10000.0  # of both embeddings, over 2 pi

GUIDED_CHANNELS = 3
"""How many of the four latent channels the published samples guide: as many as images had in the
code that theirs grew out of. The quality that they are known for is of that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """What a diffusion transformer is made of; the defaults are DiT-XL/2's (and SiT-XL/2's).

    Attributes:
        input_size: side of a latent, a multiple of `patch_size`: 32 for images of 256x256 pixels,
            64 for 512x512.
        patch_size: side of the patch that becomes one token.
        in_channels: channels of a latent.
        hidden_size: features of a token, a multiple of 4 and of `num_heads`.
        depth: number of blocks.
        num_heads: of each attention.
        num_classes: labels go from 0 to `num_classes - 1`, and `num_classes` stands for none.
        learn_sigma: whether the network has as many channels again for the variance.
        norm_epsilon: of the normalisation before a block's perceptron. The published weights were
            trained with the default; `diffusers` computes with 1e-5.
        frequency_shift: frequency `i` of `half` in the embedding of time is `10000^(-i / (half -
            frequency_shift))`. The published weights were trained with 0; `diffusers` computes with
            1, from the same weights.

    Raises:
        ValueError: if a number is out of its range.
    """

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    num_classes: int = 1000
    learn_sigma: bool = True
    norm_epsilon: float = _EPSILON
    frequency_shift: int = 0

    def __post_init__(self) -> None:
        check_count("input_size", self.input_size, high=LARGEST_SIDE)
        counts = ("patch_size", "in_channels", "hidden_size", "depth", "num_heads")
        for name in (*counts, "num_classes"):
            check_count(name, getattr(self, name))
        multiples = {
            "input_size": self.patch_size,
            "hidden_size": np.lcm(4, self.num_heads),
        }
        for name, divisor in multiples.items():
            if getattr(self, name) % divisor:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: it must be a multiple of {divisor}"
                )
        check_range("norm_epsilon", self.norm_epsilon, 0.0, open_low=True)
        if self.frequency_shift not in (0, 1):
            raise ValueError(f"frequency_shift is {self.frequency_shift!r}: it must be 0 or 1")

    @property
    def out_channels(self) -> int:
        """Channels of the network's output."""
        return 2 * self.in_channels if self.learn_sigma else self.in_channels

    @property
    def grid(self) -> int:
        """How many tokens stand side by side."""
        return self.input_size // self.patch_size


# ----------------------------------------------------------------------------------------- network


def line_embedding(positions: np.ndarray, features: int) -> np.ndarray:
    """Positions [length] as sines, then cosines, [length, features] float64.

    They are those of `position / 10000^(i / (features/2))`.
    """
    half = features // 2
    frequencies = _LONGEST_PERIOD ** -(np.arange(half) / half)
    angles = positions[:, None] * frequencies[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def position_embedding(grid: int, features: int) -> np.ndarray:
    """Where each token of a square grid stands, [1, grid*grid, features] float32, rows first.

    The first half of the features says which column it is in and the second half which row, each by
    sines and then cosines of `position / 10000^(i / (features/4))`.
    """
    line = line_embedding(np.arange(grid), features // 2)
    shape = (grid, grid, features // 2)
    column, row = np.broadcast_to(line[None, :], shape), np.broadcast_to(line[:, None], shape)
    both = np.concatenate([column, row], axis=2)
    return both.reshape(1, grid * grid, features).astype(np.float32)


def normalise(x: Array, epsilon: float) -> Array:
    """Layer normalisation without weights, in float32."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)


def _modulate(x: Array, shift: Array, scale: Array) -> Array:
    """Tokens [n, tokens, features] scaled and shifted by features [n, features]."""
    return x * (1.0 + scale[:, None, :]) + shift[:, None, :]


def _modulation(features: int, num: int, make: Layers) -> nnx.List:
    return nnx.List([jax.nn.silu, make.linear(features, num * features)])


def _through(layers: nnx.List, x: Array) -> Array:
    for layer in layers:
        x = layer(x)
    return x


class _Patches(nnx.Module):
    def __init__(self, config: DiTConfig, make: Layers) -> None:
        self.proj = make.patches(config.in_channels, config.hidden_size, config.patch_size)

    def __call__(self, x: Array) -> Array:
        patches = self.proj(x)
        return patches.reshape(len(x), -1, patches.shape[-1])


class _Time(nnx.Module):
    def __init__(self, config: DiTConfig, make: Layers) -> None:
        size = config.hidden_size
        self.shift = config.frequency_shift
        self.mlp = nnx.List(
            [
                make.linear(_TIME_FEATURES, size),
                jax.nn.silu,
                make.linear(size, size),
            ]
        )

    def __call__(self, t: Array) -> Array:
        return _through(self.mlp, sinusoidal(t, _TIME_FEATURES, shift=self.shift))


class _Label(nnx.Module):
    def __init__(self, config: DiTConfig, make: Layers) -> None:
        self.embedding_table = make.embed(config.num_classes + 1, config.hidden_size)

    def __call__(self, label: Array) -> Array:
        return self.embedding_table(label)


class _Perceptron(nnx.Module):
    def __init__(self, config: DiTConfig, make: Layers) -> None:
        size = config.hidden_size
        self.fc1 = make.linear(size, 4 * size)
        self.fc2 = make.linear(4 * size, size)

    def __call__(self, x: Array) -> Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=True))


class _Block(nnx.Module):
    """Attention, then a perceptron, both shifted, scaled and gated (adaLN-Zero, section 3.2)."""

    def __init__(self, config: DiTConfig, make: Layers) -> None:
        self.epsilon = config.norm_epsilon
        self.attn = JointAttention(config.hidden_size, config.num_heads, make)
        self.mlp = _Perceptron(config, make)
        self.adaLN_modulation = _modulation(config.hidden_size, 6, make)

    def __call__(self, x: Array, condition: Array) -> Array:
        modulation = _through(self.adaLN_modulation, condition).astype(jnp.float32)
        parts = jnp.split(modulation, 6, axis=1)
        for layer, epsilon, (shift, scale, gate) in (
            (self.attn, _EPSILON, parts[:3]),
            (self.mlp, self.epsilon, parts[3:]),
        ):
            change = layer(_modulate(normalise(x, epsilon), shift, scale))
            x = x + gate[:, None, :] * change.astype(jnp.float32)
        return x


class _Final(nnx.Module):
    def __init__(self, config: DiTConfig, make: Layers) -> None:
        size = config.hidden_size
        outputs = config.patch_size**2 * config.out_channels
        self.linear = make.linear(size, outputs)
        self.adaLN_modulation = _modulation(size, 2, make)

    def __call__(self, x: Array, condition: Array) -> Array:
        modulation = _through(self.adaLN_modulation, condition).astype(jnp.float32)
        shift, scale = jnp.split(modulation, 2, axis=1)
        return self.linear(_modulate(normalise(x, _EPSILON), shift, scale))


class DiT(nnx.Module):
    """A transformer over the patches of a latent, conditioned on time and label.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax and what
            is passed from block to block are float32 in any case.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: DiTConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        make = Layers(dtype, rngs)
        self.x_embedder = _Patches(config, make)
        self.t_embedder = _Time(config, make)
        self.y_embedder = _Label(config, make)
        # It never changes, but the original files hold it, so it is a weight among others here.
        embedding = position_embedding(config.grid, config.hidden_size)
        self.pos_embed = nnx.Param(jnp.asarray(embedding))
        self.blocks = Stacked(
            lambda rngs: _Block(config, Layers(dtype, rngs)), config.depth, remat=remat, rngs=rngs
        )
        self.final_layer = _Final(config, make)

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """What the network says, [n, input_size, input_size, out_channels] float32.

        Args:
            x: latents [n, input_size, input_size, in_channels] float32.
            t: [n] float32, in the network's own time.
            label: [n] int32, from 0 to `num_classes`, the last of which stands for none.
        """
        config = self.config
        tokens = self.x_embedder(x).astype(jnp.float32) + self.pos_embed[...].astype(jnp.float32)
        condition = self.t_embedder(t) + self.y_embedder(label)
        tokens = self.final_layer(self.blocks(tokens, condition), condition)
        side, patch, channels = config.grid, config.patch_size, config.out_channels
        patches = tokens.reshape(-1, side, side, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
        return patches.reshape(*x.shape[:3], channels).astype(jnp.float32)


# ---------------------------------------------------------------------------------- use in a search


def dit_network(
    config: DiTConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array, Array, Array], Array]:
    """The network as a pure function, the same object each time.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed.
        remat: whether a gradient computes each block again.

    Returns:
        `(params, x [n,*E], t [n], label [n]) -> [n,*E]`: the first half of the channels where the
        second is the variance's, which no solver here reads.

    Raises:
        ValueError: if the type is another one.
    """
    return _network(config, compute_type(dtype), bool(remat))


@functools.cache
def _network(config: DiTConfig, dtype: Any, remat: bool) -> Callable[..., Array]:
    whole = functional(lambda rngs: DiT(config, dtype=dtype, remat=remat, rngs=rngs))

    def apply(params: PyTree, x: Array, t: Array, label: Array) -> Array:
        return whole(params, x, t, label)[..., : config.in_channels]

    return apply


def dit_denoiser(
    config: DiTConfig,
    params: PyTree,
    *,
    guidance: Array | float = 1.0,
    guided_channels: int | None = GUIDED_CHANNELS,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Denoiser:
    """A diffusion transformer that predicts noise, on Ho et al.'s process of 1000 linear betas.

    Its condition is the label, int32 [n]: 0 to `num_classes - 1`, or `num_classes` for any.

    Args:
        config: what it is made of.
        params: its weights, from `load_dit` or `load_dit_folder`.
        guidance: scale of classifier-free guidance; 1 is none and costs one pass, others cost two.
        guided_channels: how many of the latent's channels are guided; the rest is as the label
            alone has it. None: all of them, as the pipeline of `diffusers` does.
        dtype: float32 or bfloat16, in which products are computed.
        remat: whether a gradient computes each block again instead of keeping what is inside it.

    Raises:
        ValueError: if a setting is out of its range.
    """
    denoiser = epsilon_denoiser(
        dit_network(config, dtype=dtype, remat=remat),
        params,
        shape=(config.input_size, config.input_size, config.in_channels),
        process=variance_preserving(beta_start=1e-4, beta_end=0.02, shape="linear"),
    )
    return classifier_free_guidance(
        denoiser,
        scale=guidance,
        null=np.int32(config.num_classes),
        guided_channels=guided_channels,
    )
