"""DDPM++ and NCSN++: the U-Nets of Song et al. 2021 as EDM trained them anew.

Attributes are named as the keys of EDM's checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.models.adm import reordered
from jaxsearch.models.attention import attention
from jaxsearch.models.configs import LARGEST_SIDE, MOST_BLOCKS
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.layers import Layers, run

Resample = Literal["up", "down"] | None

_HALF = math.sqrt(0.5)  # what a sum of two signals of unit variance is scaled by


@dataclasses.dataclass(frozen=True)
class SongConfig:
    """The shape of a network.

    Attributes:
        image_size: height and width of a latent.
        in_channels: of a latent.
        out_channels: of what the network says of it.
        model_channels: channels of the first convolution.
        channel_mult: by level, from fine to coarse, how many times as many; each level halves the
            sides.
        num_blocks: residual blocks of a level on the way down; one more on the way up.
        attention_resolutions: sides of a level, in pixels, at which it attends.
        num_classes: labels that it is told; 0 for none.
        embedding: how the time enters: `"positional"` (DDPM++) or `"fourier"` (NCSN++).
        noise_mult: features that the time becomes, in `model_channels`.
        embedding_mult: features of the vector that tells every block time and label, likewise.
        encoder: `"standard"`, or `"residual"`: each level also sees the picture, made smaller.
        resample_filter: by which pictures are made smaller and larger, along each axis.
    """

    image_size: int
    in_channels: int = 3
    out_channels: int = 3
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    num_classes: int = 0
    embedding: Literal["positional", "fourier"] = "positional"
    noise_mult: int = 1
    embedding_mult: int = 4
    encoder: Literal["standard", "residual"] = "standard"
    resample_filter: tuple[int, ...] = (1, 1)

    def __post_init__(self) -> None:
        """Refuses what cannot be a shape."""
        check_count("image_size", self.image_size, high=LARGEST_SIDE)
        check_count("num_blocks", self.num_blocks, high=MOST_BLOCKS)
        counts = ("in_channels", "out_channels", "model_channels")
        for name in (*counts, "noise_mult", "embedding_mult"):
            check_count(name, getattr(self, name))
        check_count("num_classes", self.num_classes, 0)
        check_count("the number of levels in channel_mult", len(self.channel_mult))
        for number in (*self.channel_mult, *self.attention_resolutions, *self.resample_filter):
            check_count("an entry of channel_mult, or of another list,", number)


def _filtered(x: Array, taps: tuple[int, ...], resample: Resample, padding: int) -> Array:
    """[n,h,w,c] convolved with a filter in each channel and halved, or doubled and convolved."""
    weights = np.outer(taps, taps) / sum(taps) ** 2
    if resample == "up":
        weights, padding = 4 * weights, len(taps) - 1 - padding  # as a transposed convolution pads
    kernel = jnp.asarray(weights, x.dtype)[:, :, None, None]
    return jax.lax.conv_general_dilated(
        x,
        jnp.broadcast_to(kernel, (*weights.shape, 1, x.shape[-1])),
        window_strides=(2, 2) if resample == "down" else (1, 1),
        padding=[(padding, padding)] * 2,
        lhs_dilation=(2, 2) if resample == "up" else None,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


class Block(nnx.Module):
    """Two convolutions, the embedding added between them; perhaps every pixel attends to all."""

    def __init__(
        self,
        make: Layers,
        config: SongConfig,
        inner: int,
        outer: int,
        *,
        attends: bool = False,
        resample: Resample = None,
    ) -> None:
        self.inner, self.outer, self.attends, self.dtype = inner, outer, attends, make.dtype
        self.resample, self.taps = resample, config.resample_filter
        self.norm0, self.conv0 = make.norm(inner), make.conv(inner, outer)
        self.affine = make.linear(config.embedding_mult * config.model_channels, outer)
        self.norm1, self.conv1 = make.norm(outer), make.conv(outer, outer)
        projects = inner != outer or resample is not None
        self.skip = make.linear(inner, outer) if projects else None
        if attends:
            self.norm2, self.qkv = make.norm(outer), make.linear(outer, 3 * outer)
            self.proj = make.linear(outer, outer)

    def _resampled(self, x: Array) -> Array:
        if self.resample is None:
            return x
        return _filtered(x, self.taps, self.resample, (len(self.taps) - 1) // 2)

    def __call__(self, x: Array, embedding: Array) -> Array:
        """[n,h,w,inner] and [n,embedding] -> [n,h',w',outer]."""
        h = self.conv0(self._resampled(jax.nn.silu(self.norm0(x)).astype(self.dtype)))
        h = self.norm1(h + self.affine(embedding)[:, None, None])
        h = self.conv1(jax.nn.silu(h).astype(self.dtype))
        x = self._resampled(x)
        h = (h + (x if self.skip is None else self.skip(x))) * _HALF
        if not self.attends:
            return h
        qkv = self.qkv(self.norm2(h).astype(self.dtype))
        qkv = qkv.reshape((h.shape[0], h.shape[1] * h.shape[2], 3, 1, self.outer))
        attended = attention(*jnp.moveaxis(qkv, 2, 0))
        return (self.proj(attended.reshape(h.shape)) + h) * _HALF


class Shrunk(nnx.Module):
    """The picture made smaller for the next level: a convolution, then the filter, then halving."""

    def __init__(self, make: Layers, config: SongConfig, inner: int, outer: int) -> None:
        self.taps = config.resample_filter
        self.weight = nnx.Param(
            nnx.initializers.lecun_normal(in_axis=1, out_axis=0)(
                make.rngs.params(), (outer, inner, 3, 3), make.dtype
            )
        )
        self.bias = nnx.Param(jnp.zeros((outer,), make.dtype))
        self.padding = 1 + (len(self.taps) - 1) // 2  # for both: the filter pads no more

    def __call__(self, x: Array) -> Array:
        """[n,h,w,inner] -> [n,h/2,w/2,outer]."""
        h = jax.lax.conv_general_dilated(
            x,
            self.weight[...],
            window_strides=(1, 1),
            padding=[(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )
        return _filtered(h, self.taps, "down", 0) + self.bias[...][None, None, None]


class Fourier(nnx.Module):
    """Fixed random frequencies, which a checkpoint brings along."""

    def __init__(self, features: int) -> None:
        self.freqs = nnx.Variable(jnp.zeros((features // 2,), jnp.float32))


class Song(nnx.Module):
    """The U-Net.

    Args:
        config: its shape.
        dtype: of weights and of what is computed with them; norms compute in float32.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.

    Raises:
        ValueError: if the image cannot be halved often enough.
    """

    def __init__(
        self,
        config: SongConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        levels = list(enumerate(config.channel_mult))
        if config.image_size % 2 ** (len(levels) - 1):
            raise ValueError(
                f"image_size is {config.image_size}: {len(levels)} levels halve it "
                f"{len(levels) - 1} times"
            )
        self.config, self.dtype, self.remat = config, dtype, remat
        make = Layers(dtype, rngs, lambda channels: min(32, channels // 4), 1e-6)
        width = config.model_channels
        noise, embedding = config.noise_mult * width, config.embedding_mult * width
        self.map_noise = Fourier(noise) if config.embedding == "fourier" else None
        self.map_label = make.linear(config.num_classes, noise) if config.num_classes else None
        self.map_layer0 = make.linear(noise, embedding)
        self.map_layer1 = make.linear(embedding, embedding)

        def name(level: int) -> str:
            side = config.image_size >> level
            return f"{side}x{side}"

        def attends(level: int) -> bool:
            return config.image_size >> level in config.attention_resolutions

        def block(inner: int, outer: int, **settings: Any) -> Block:
            return Block(make, config, inner, outer, **settings)

        h, picture = width, config.in_channels
        enc: dict[str, nnx.Module] = {f"{name(0)}_conv": make.conv(picture, h)}
        widths = [h]
        for level, mult in levels:
            if level:
                enc[f"{name(level)}_down"] = block(h, h, resample="down")
                if config.encoder == "residual":
                    enc[f"{name(level)}_aux_residual"] = Shrunk(make, config, picture, h)
                    picture = h
                widths.append(h)
            for i in range(config.num_blocks):
                enc[f"{name(level)}_block{i}"] = block(h, width * mult, attends=attends(level))
                h = width * mult
                widths.append(h)
        dec: dict[str, nnx.Module] = {}
        for level, mult in reversed(levels):
            if level == len(levels) - 1:
                dec[f"{name(level)}_in0"] = block(h, h, attends=True)
                dec[f"{name(level)}_in1"] = block(h, h)
            else:
                dec[f"{name(level)}_up"] = block(h, h, resample="up")
            for i in range(config.num_blocks + 1):
                last = i == config.num_blocks and attends(level)
                dec[f"{name(level)}_block{i}"] = block(h + widths.pop(), width * mult, attends=last)
                h = width * mult
        dec[f"{name(0)}_aux_norm"] = make.norm(h)
        dec[f"{name(0)}_aux_conv"] = make.conv(h, config.out_channels)
        self.enc, self.dec = nnx.Dict(enc), nnx.Dict(dec)
        self.order = tuple(enc), tuple(dec)  # a dictionary of modules may forget it

    def _waves(self, t: Array) -> Array:
        """Times [n] -> sines, then cosines [n, features]."""
        if self.map_noise is None:
            waves = sinusoidal(t, self.config.noise_mult * self.config.model_channels, shift=1)
            return jnp.roll(waves, waves.shape[-1] // 2, axis=-1)
        angles = t.astype(jnp.float32)[:, None] * (2 * jnp.pi * self.map_noise.freqs[...])[None]
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """Latents [n,h,w,c], times [n] and labels [n] int32, not read if it has none -> [n,h,w,c].

        The output has the type of the latents.
        """
        embedding = self._waves(t).astype(self.dtype)
        if self.map_label is not None:
            num = self.config.num_classes
            rows = jax.nn.one_hot(label, num, dtype=self.dtype) * math.sqrt(num)
            embedding = embedding + self.map_label(rows)
        embedding = jax.nn.silu(self.map_layer0(embedding))
        embedding = jax.nn.silu(self.map_layer1(embedding))
        h = picture = x.astype(self.dtype)
        passed: list[Array] = []
        for name in self.order[0]:
            layer = self.enc[name]
            if isinstance(layer, Shrunk):
                h = picture = passed[-1] = (h + layer(picture)) * _HALF
            else:
                is_block = isinstance(layer, Block)
                h = run(layer, h, embedding, remat=self.remat) if is_block else layer(h)
                passed.append(h)
        for name in self.order[1]:
            layer = self.dec[name]
            if isinstance(layer, Block):
                if h.shape[-1] != layer.inner:
                    h = jnp.concatenate([h, passed.pop()], axis=-1)
                h = run(layer, h, embedding, remat=self.remat)
            elif name.endswith("_aux_norm"):
                h = jax.nn.silu(layer(h)).astype(self.dtype)
            else:
                h = layer(h)
        return h.astype(x.dtype)


def from_edm(tensors: Mapping[str, np.ndarray], config: SongConfig) -> dict[str, np.ndarray]:
    """The tensors of a network of EDM's pickles under the keys that `Song` has.

    Filters of resampling, which the config has, and weights of training augmentations are left out;
    queries, keys and values are put one after another.
    """
    found = {}
    for key, tensor in tensors.items():
        layer, _, leaf = key.rpartition(".")
        if leaf == "resample_filter" or layer == "map_augment":
            continue
        if layer.endswith(".qkv"):
            tensor = reordered(tensor, tensor.shape[0] // 3, "head_channel_three")
        found[key] = tensor
    return found


def build(
    config: SongConfig, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[nnx.Rngs], Song]:
    """A function that makes the network from random numbers."""
    return lambda rngs: Song(config, dtype=dtype, remat=remat, rngs=rngs)
