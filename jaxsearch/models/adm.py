"""ADM: the U-Net of Dhariwal & Nichol 2021, which EDM's ImageNet-64 networks are too.

Attributes are named as the keys of OpenAI's checkpoints. EDM's pickles name the same layers
otherwise; `from_edm` translates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.models.attention import attention
from jaxsearch.models.configs import LARGEST_SIDE, MOST_BLOCKS
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.layers import Layers, run, unchanged

Resample = Literal["up", "down"] | None


@dataclasses.dataclass(frozen=True)
class AdmConfig:
    """The shape of an ADM network.

    Attributes:
        image_size: height and width of a latent.
        in_channels: of a latent.
        out_channels: of what the network says of it.
        model_channels: channels of the first level.
        channel_mult: by level, from fine to coarse, how many times as many; each level halves the
            sides.
        num_res_blocks: residual blocks of a level on the way down; one more on the way up.
        attention_resolutions: sides of a level, in pixels, at which its blocks attend.
        head_channels: channels of an attention head.
        num_classes: labels that it is told; 0 for none.
        min_group_channels: a normalisation has 32 groups, or fewer where they would have fewer
            channels than this.
    """

    image_size: int
    in_channels: int = 3
    out_channels: int = 3
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    num_classes: int = 0
    min_group_channels: int = 1

    def __post_init__(self) -> None:
        """Refuses what cannot be a shape."""
        check_count("image_size", self.image_size, high=LARGEST_SIDE)
        check_count("num_res_blocks", self.num_res_blocks, high=MOST_BLOCKS)
        counts = ("in_channels", "out_channels", "model_channels")
        for name in (*counts, "head_channels", "min_group_channels"):
            check_count(name, getattr(self, name))
        check_count("num_classes", self.num_classes, 0)
        check_count("the number of levels in channel_mult", len(self.channel_mult))
        for number in (*self.channel_mult, *self.attention_resolutions):
            check_count("an entry of channel_mult, or of another list,", number)

    @property
    def embedding(self) -> int:
        """Features of the vector that tells every block the time and the label."""
        return 4 * self.model_channels


def _resampled(x: Array, resample: Resample) -> Array:
    """[n,h,w,c] with its sides doubled, pixels repeated, or halved, 2x2 pixels averaged."""
    if resample == "up":
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    if resample == "down":
        n, h, w, c = x.shape
        return jnp.mean(x.reshape((n, h // 2, 2, w // 2, 2, c)), axis=(2, 4))
    return x


class ResidualBlock(nnx.Module):
    """Two convolutions whose second norm is scaled and shifted by the embedding."""

    def __init__(
        self,
        make: Layers,
        config: AdmConfig,
        inner: int,
        outer: int,
        resample: Resample = None,
    ) -> None:
        self.resample, self.dtype = resample, make.dtype
        self.in_layers: Any = nnx.List([make.norm(inner), jax.nn.silu, make.conv(inner, outer)])
        self.emb_layers: Any = nnx.List([jax.nn.silu, make.linear(config.embedding, 2 * outer)])
        self.out_layers: Any = nnx.List(
            [make.norm(outer), jax.nn.silu, unchanged, make.conv(outer, outer)]
        )
        self.skip_connection = make.linear(inner, outer) if inner != outer else None

    def __call__(self, x: Array, embedding: Array) -> Array:
        """[n,h,w,inner] and [n,embedding] -> [n,h',w',outer]."""
        norm, activate, conv = self.in_layers
        h = conv(_resampled(activate(norm(x)).astype(self.dtype), self.resample))
        x = _resampled(x, self.resample)
        activate, linear = self.emb_layers
        moved = linear(activate(embedding)).astype(jnp.float32)  # as the norm that it moves
        scale, shift = jnp.split(moved[:, None, None], 2, axis=-1)
        norm, activate, identity, conv = self.out_layers
        h = conv(identity(activate(norm(h) * (1 + scale) + shift)).astype(self.dtype))
        return (x if self.skip_connection is None else self.skip_connection(x)) + h


class AttentionBlock(nnx.Module):
    """Every pixel attends to all; queries, keys and values in this order, heads within each."""

    def __init__(self, make: Layers, config: AdmConfig, channels: int) -> None:
        self.head_channels, self.dtype = config.head_channels, make.dtype
        self.norm = make.norm(channels)
        self.qkv = make.linear(channels, 3 * channels)
        self.proj_out = make.linear(channels, channels)

    def __call__(self, x: Array, embedding: Array) -> Array:
        """[n,h,w,c] -> [n,h,w,c]; the embedding is not read."""
        del embedding
        qkv = self.qkv(self.norm(x).astype(self.dtype))
        qkv = qkv.reshape((x.shape[0], x.shape[1] * x.shape[2], 3, -1, self.head_channels))
        attended = attention(*jnp.moveaxis(qkv, 2, 0))
        return x + self.proj_out(attended.reshape(x.shape))


def _is_block(layer: object) -> bool:
    return isinstance(layer, ResidualBlock | AttentionBlock)


def _through(layers: Any, h: Array, embedding: Array, remat: bool) -> Array:
    for layer in layers:
        h = run(layer, h, embedding, remat=remat) if _is_block(layer) else layer(h)
    return h


def layers_of(config: AdmConfig, dtype: Any, rngs: nnx.Rngs) -> Layers:
    """What makes the layers of a network of this shape."""
    return Layers(dtype, rngs, lambda channels: min(32, channels // config.min_group_channels))


def _blocks(
    make: Layers, config: AdmConfig, inner: int, outer: int, level: int
) -> list[nnx.Module]:
    """A residual block of a level, and attention where the level has it."""
    found: list[nnx.Module] = [ResidualBlock(make, config, inner, outer)]
    if config.image_size >> level in config.attention_resolutions:
        found.append(AttentionBlock(make, config, outer))
    return found


class Encoder(nnx.Module):
    """The way down and the middle, which the U-Net and the classifier begin with.

    Args:
        config: the shape.
        dtype: of weights and of what is computed with them; norms compute in float32.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.

    Raises:
        ValueError: if a level's channels are no multiple of a head's where it attends, or the image
            cannot be halved often enough.
    """

    def __init__(
        self, config: AdmConfig, dtype: Any = jnp.float32, remat: bool = False, *, rngs: nnx.Rngs
    ) -> None:
        _check(config)
        self.config, self.dtype, self.remat = config, dtype, remat
        make = layers_of(config, dtype, rngs)
        width, embedding = config.model_channels, config.embedding
        self.time_embed: Any = nnx.List(
            [make.linear(width, embedding), jax.nn.silu, make.linear(embedding, embedding)]
        )
        h = width * config.channel_mult[0]
        down: list[list[nnx.Module]] = [[make.conv(config.in_channels, h)]]
        for level, mult in enumerate(config.channel_mult):
            if level:
                down.append([ResidualBlock(make, config, h, h, "down")])
            for _ in range(config.num_res_blocks):
                down.append(_blocks(make, config, h, width * mult, level))
                h = width * mult
        self.input_blocks = nnx.List([nnx.List(layers) for layers in down])
        self.middle_block = nnx.List(
            [
                ResidualBlock(make, config, h, h),
                AttentionBlock(make, config, h),
                ResidualBlock(make, config, h, h),
            ]
        )

    def embedded(self, t: Array) -> Array:
        """Times [n] -> what every block is told of them, [n,embedding]."""
        first, activate, second = self.time_embed
        waves = sinusoidal(t, self.config.model_channels).astype(self.dtype)
        return second(activate(first(waves)))

    def encode(self, x: Array, embedding: Array) -> tuple[Array, list[Array]]:
        """Images [n,h,w,c] -> what the middle makes of them, and what was passed on the way."""
        h, passed = x.astype(self.dtype), []
        for layers in self.input_blocks:
            h = _through(layers, h, embedding, self.remat)
            passed.append(h)
        return _through(self.middle_block, h, embedding, self.remat), passed


class Adm(Encoder):
    """The U-Net; its arguments and errors are those of `Encoder`."""

    def __init__(
        self, config: AdmConfig, dtype: Any = jnp.float32, remat: bool = False, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, dtype, remat, rngs=rngs)
        make = layers_of(config, dtype, rngs)
        width, embedding = config.model_channels, config.embedding
        self.label_emb = make.embed(config.num_classes, embedding) if config.num_classes else None
        levels, h = list(enumerate(config.channel_mult)), width * config.channel_mult[-1]
        passed = [width * config.channel_mult[0]]  # channels of each entry of `input_blocks`
        for level, mult in levels:
            passed += passed[-1:] if level else []
            passed += [width * mult] * config.num_res_blocks
        up: list[list[nnx.Module]] = []
        for level, mult in reversed(levels):
            for _ in range(config.num_res_blocks + 1):
                up.append(_blocks(make, config, h + passed.pop(), width * mult, level))
                h = width * mult
            if level:
                up[-1].append(ResidualBlock(make, config, h, h, "up"))
        self.output_blocks = nnx.List([nnx.List(layers) for layers in up])
        self.out: Any = nnx.List([make.norm(h), jax.nn.silu, make.conv(h, config.out_channels)])

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """Latents [n,h,w,c], times [n] and labels [n] int32, not read if it has none -> [n,h,w,c].

        The output has the type of the latents.
        """
        embedding = self.embedded(t)
        if self.label_emb is not None:
            embedding = embedding + self.label_emb(label)
        h, passed = self.encode(x, embedding)
        for layers in self.output_blocks:
            joined = jnp.concatenate([h, passed.pop()], axis=-1)
            h = _through(layers, joined, embedding, self.remat)
        norm, activate, conv = self.out
        return conv(activate(norm(h)).astype(self.dtype)).astype(x.dtype)


def _check(config: AdmConfig) -> None:
    halvings = len(config.channel_mult) - 1
    if config.image_size % 2**halvings:
        raise ValueError(
            f"image_size is {config.image_size}: {len(config.channel_mult)} levels halve it "
            f"{halvings} times"
        )
    for level, mult in enumerate(config.channel_mult):
        channels, side = mult * config.model_channels, config.image_size >> level
        attends = side in config.attention_resolutions or level == halvings
        if attends and channels % config.head_channels:
            raise ValueError(
                f"head_channels is {config.head_channels}: the {channels} channels at "
                f"{side}x{side} pixels are no multiple of it"
            )


# ------------------------------------------------------------------------------- published layouts

QkvOrder = Literal["three_head_channel", "head_three_channel", "head_channel_three"]
"""How rows of a query-key-value matrix are ordered, the slowest first."""


def reordered(tensor: np.ndarray, head_channels: int, order: QkvOrder) -> np.ndarray:
    """The weight or bias [3*c, ...] of queries, keys and values, in the order that is used here.

    `three_head_channel` is that of OpenAI's EDM and of guided-diffusion's "new" attention,
    `head_three_channel` guided-diffusion's legacy one, `head_channel_three` EDM's own.
    """
    heads, rest = tensor.shape[0] // (3 * head_channels), tensor.shape[1:]
    if order == "head_three_channel":
        tensor = tensor.reshape((heads, 3, head_channels, *rest)).swapaxes(0, 1)
    elif order == "head_channel_three":
        tensor = np.moveaxis(tensor.reshape((heads, head_channels, 3, *rest)), 2, 0)
    return np.ascontiguousarray(tensor).reshape((-1, *rest))


_EDM_RESIDUAL = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
_EDM_ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
_EDM_OTHERS = {
    "map_layer0": "time_embed.0",
    "map_layer1": "time_embed.2",
    "out_norm": "out.0",
    "out_conv": "out.2",
}


def _edm_blocks(config: AdmConfig) -> Iterator[tuple[str, str, int]]:
    """EDM's name of each block, and its place here: the list it is in, and where it begins."""
    sides = [config.image_size >> level for level in range(len(config.channel_mult))]
    place = 0
    for level, side in enumerate(sides):
        if level:
            yield f"enc.{side}x{side}_down", f"input_blocks.{place}", 0
        place += 1  # after the first convolution, or the halving
        for block in range(config.num_res_blocks):
            yield f"enc.{side}x{side}_block{block}", f"input_blocks.{place}", 0
            place += 1
    coarsest = f"dec.{sides[-1]}x{sides[-1]}"
    yield f"{coarsest}_in0", "middle_block", 0
    yield f"{coarsest}_in1", "middle_block", 2
    place = 0
    for level, side in reversed(list(enumerate(sides))):
        for block in range(config.num_res_blocks + 1):
            yield f"dec.{side}x{side}_block{block}", f"output_blocks.{place}", 0
            place += 1
        if level:
            attends = side in config.attention_resolutions
            finer = sides[level - 1]
            yield f"dec.{finer}x{finer}_up", f"output_blocks.{place - 1}", 2 if attends else 1


def from_edm(tensors: Mapping[str, np.ndarray], config: AdmConfig) -> dict[str, np.ndarray]:
    """The tensors of a network of EDM's pickles under the keys that `Adm` has.

    Keys that have no place here keep their names, so that whoever loads them refuses them. Filters
    of resampling, which are fixed, and weights of training augmentations are left out.
    """
    side = config.image_size
    names = {f"enc.{side}x{side}_conv": "input_blocks.0.0", **_EDM_OTHERS}
    for theirs, ours, first in _edm_blocks(config):
        names |= {f"{theirs}.{k}": f"{ours}.{first}.{v}" for k, v in _EDM_RESIDUAL.items()}
        names |= {f"{theirs}.{k}": f"{ours}.{first + 1}.{v}" for k, v in _EDM_ATTENTION.items()}
    found = {}
    for key, tensor in tensors.items():
        layer, _, leaf = key.rpartition(".")
        if leaf == "resample_filter" or layer == "map_augment":
            continue
        if key == "map_label.weight":  # of a label as a row of ones and zeros, without a bias
            found["label_emb.weight"] = tensor.T
            continue
        if layer.endswith(".qkv"):
            tensor = reordered(tensor, config.head_channels, "head_channel_three")
        found[f"{names.get(layer, layer)}.{leaf}"] = tensor
    return found


def build(
    config: AdmConfig, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[nnx.Rngs], Adm]:
    """A function that makes the network from random numbers."""
    return lambda rngs: Adm(config, dtype=dtype, remat=remat, rngs=rngs)
