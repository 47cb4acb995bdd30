"""The network of Stable Diffusion 1, 2 and XL: a U-net that asks a text at most of its resolutions.

Attributes are named as the keys of `diffusers` are: `down_blocks.0.attentions.1.proj_in`. Whether
that is a convolution of size 1 or a linear map is the same here: the last axis are the channels.

References: Rombach, Blattmann, Lorenz, Esser, Ommer, *High-resolution image synthesis with latent
diffusion models*, 2022, section 3.3, https://arxiv.org/abs/2112.10752; Podell et al., *SDXL:
improving latent diffusion models for high-resolution image synthesis*, 2023, sections 2.1 and 2.2,
https://arxiv.org/abs/2307.01952.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.asked_attention import AskedAttention
from jaxsearch.models.configs import LARGEST_SIDE, MOST_BLOCKS
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.feed_forward import FeedForward, TwoLayers
from jaxsearch.models.folders import (
    check_entries,
    number,
)
from jaxsearch.models.layers import Layers, compute_type, run
from jaxsearch.models.loading import network_of
from jaxsearch.models.network_folder import load_network
from jaxsearch.models.residual import Residual, Up
from jaxsearch.models.stacked import Stacked

_TRANSFORMER_EPSILON = 1e-6  # of the normalisation before a transformer
_TOKEN_EPSILON = 1e-5  # of those inside it

SIZES = 6
"""How many numbers a network is told of a picture's size."""


class SizedText(NamedTuple):
    """What a network is told that knows sizes too (Podell et al. 2023, section 2.2).

    Attributes:
        text: tokens [n, length, cross_attention_dim] float32.
        pooled: the text as a whole, [n, pooled_features] float32.
        sizes: height and width of the picture before it was resized, top and left of what was cut
            out of it, and height and width of that, in pixels: [n, 6] float32.
    """

    text: Array
    pooled: Array
    sizes: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What a conditional U-net is made of; the defaults are Stable Diffusion 1's.

    Attributes:
        sample_size: side of the latents that it was trained with; it takes others.
        in_channels: channels of a latent, also of the output.
        block_out_channels: channels at each resolution, the finest first; each halves the side.
        num_heads: of attention at each resolution; it divides the channels there.
        down_attends: at which resolutions the way down asks the text.
        up_attends: at which resolutions the way up does, the coarsest first.
        layers_per_block: residual blocks at each resolution on the way down; up there is one more.
        transformer_layers: blocks of a transformer at each resolution.
        cross_attention_dim: features of a token of the text.
        addition_time_embed_dim: features of each of the numbers of a size, an even number; 0: the
            network is told a text alone.
        pooled_features: of a text as a whole; 0 where it is told a text alone.
        norm_num_groups: groups of each normalisation; it divides all channels.
        norm_eps: of the normalisations in residual blocks, above 0.
        flip_sin_to_cos: whether the embedding of time has the cosines first.
        freq_shift: frequency `i` of `half` in it is `10000^(-i / (half - freq_shift))`; 0 or 1.

    Raises:
        ValueError: if a number is out of its range.
    """

    sample_size: int = 64
    in_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    down_attends: tuple[bool, ...] = (True, True, True, False)
    up_attends: tuple[bool, ...] = (False, True, True, True)
    layers_per_block: int = 2
    transformer_layers: tuple[int, ...] = (1, 1, 1, 1)
    cross_attention_dim: int = 768
    addition_time_embed_dim: int = 0
    pooled_features: int = 0
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    def __post_init__(self) -> None:
        check_count("sample_size", self.sample_size, high=LARGEST_SIDE)
        check_count("layers_per_block", self.layers_per_block, high=MOST_BLOCKS)
        for name in ("in_channels", "cross_attention_dim", "norm_num_groups"):
            check_count(name, getattr(self, name))
        widths = self.block_out_channels
        check_count("the number of block_out_channels", len(widths))
        for name in ("num_heads", "down_attends", "up_attends", "transformer_layers"):
            if len(getattr(self, name)) != len(widths):
                raise ValueError(
                    f"{name} is {getattr(self, name)}: it must have one entry for each of "
                    f"block_out_channels {widths}"
                )
        for channels, heads in zip(widths, self.num_heads, strict=True):
            check_count("an entry of block_out_channels", channels)
            check_count("an entry of num_heads", heads)
            for name, divisor in (("norm_num_groups", self.norm_num_groups), ("num_heads", heads)):
                if channels % divisor:
                    raise ValueError(
                        f"{name} has {divisor}, which does not divide block_out_channels {widths}"
                    )
        for num in self.transformer_layers:
            check_count("an entry of transformer_layers", num, high=MOST_BLOCKS)
        told = self.addition_time_embed_dim, self.pooled_features
        for name, value in zip(("addition_time_embed_dim", "pooled_features"), told, strict=True):
            check_count(name, value, 1 if any(told) else 0)
        if told[0] % 2:
            raise ValueError(f"addition_time_embed_dim is {told[0]}: it must be even")
        if widths[0] % 2:
            raise ValueError(f"block_out_channels is {widths}: the first must be even")
        check_range("norm_eps", self.norm_eps, 0.0, open_low=True)
        if self.freq_shift not in (0, 1):
            raise ValueError(f"freq_shift is {self.freq_shift!r}: it must be 0 or 1")


_ATTENDS = {
    "down_block_types": {"CrossAttnDownBlock2D": True, "DownBlock2D": False},
    "up_block_types": {"CrossAttnUpBlock2D": True, "UpBlock2D": False},
}


def unet_config(entries: Mapping[str, Any]) -> UNetConfig:
    """The config that `diffusers` writes beside a `UNet2DConditionModel`.

    Its `attention_head_dim` is the number of heads, one for all resolutions or a list: the name
    was a slip that its files have kept. What early files do not say is as it was when they were
    written.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    check_entries(
        entries,
        needed=(
            *("sample_size", "in_channels", "out_channels", "block_out_channels"),
            *("down_block_types", "up_block_types", "layers_per_block", "attention_head_dim"),
            *("cross_attention_dim", "flip_sin_to_cos", "freq_shift"),
        ),
        # The first only chooses the form of a weight; the second the type of scores, which are
        # float32 here in any case. The last two go with entries that are absent or null.
        optional=(
            *("use_linear_projection", "upcast_attention", "norm_num_groups", "norm_eps"),
            *("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
            *("transformer_layers_per_block",),
            *("addition_embed_type_num_heads", "class_embeddings_concat"),
        ),
        fixed={
            "_class_name": ("UNet2DConditionModel",),
            "act_fn": ("silu",),
            "addition_embed_type": (None, "text_time"),
            "attention_type": ("default",),
            "center_input_sample": (False,),
            "class_embed_type": (None,),
            "conv_in_kernel": (3,),
            "conv_out_kernel": (3,),
            "cross_attention_norm": (None,),
            "downsample_padding": (1,),
            "dropout": (0.0, 0),
            "dual_cross_attention": (False,),
            "encoder_hid_dim": (None,),
            "encoder_hid_dim_type": (None,),
            "mid_block_only_cross_attention": (None, False),
            "mid_block_scale_factor": (1, 1.0),
            "mid_block_type": ("UNetMidBlock2DCrossAttn",),
            "num_attention_heads": (None,),
            "num_class_embeds": (None,),
            "only_cross_attention": (False,),
            "resnet_out_scale_factor": (1.0, 1),
            "resnet_skip_time_act": (False,),
            "resnet_time_scale_shift": ("default",),
            "reverse_transformer_layers_per_block": (None,),
            "time_cond_proj_dim": (None,),
            "time_embedding_act_fn": (None,),
            "time_embedding_dim": (None,),
            "time_embedding_type": ("positional",),
            "timestep_post_act": (None,),
        },
    )
    for name in ("block_out_channels", *_ATTENDS):
        if not isinstance(entries[name], list | tuple):
            raise ValueError(f"the config's {name} is {entries[name]!r}: it must be a list")
    attends = {}
    for name, kinds in _ATTENDS.items():
        for kind in entries[name]:
            if not isinstance(kind, str) or kind not in kinds:
                known = " or ".join(map(repr, kinds))
                raise ValueError(f"the config's {name} has {kind!r}: only {known} is supported")
        attends[name] = tuple(kinds[kind] for kind in entries[name])
    widths, heads = tuple(entries["block_out_channels"]), entries["attention_head_dim"]
    if entries["out_channels"] != entries["in_channels"]:
        raise ValueError(
            f"the config's out_channels is {entries['out_channels']!r}: only in_channels, "
            f"{entries['in_channels']!r}, is supported"
        )
    if not isinstance(entries["flip_sin_to_cos"], bool):
        raise ValueError(
            f"the config's flip_sin_to_cos is {entries['flip_sin_to_cos']!r}: it must be true or "
            "false"
        )
    numbers, pooled = _told(entries)
    return UNetConfig(
        sample_size=entries["sample_size"],
        in_channels=entries["in_channels"],
        block_out_channels=widths,
        num_heads=_for_each(heads, widths),
        down_attends=attends["down_block_types"],
        up_attends=attends["up_block_types"],
        layers_per_block=entries["layers_per_block"],
        transformer_layers=_for_each(entries.get("transformer_layers_per_block", 1), widths),
        cross_attention_dim=entries["cross_attention_dim"],
        addition_time_embed_dim=numbers,
        pooled_features=pooled,
        norm_num_groups=entries.get("norm_num_groups", 32),
        norm_eps=number(entries, "norm_eps", 1e-5),
        flip_sin_to_cos=entries["flip_sin_to_cos"],
        freq_shift=entries["freq_shift"],
    )


def _for_each(value: Any, widths: tuple[int, ...]) -> tuple[Any, ...]:
    """An entry for all resolutions, or for each."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * len(widths)


def _told(entries: Mapping[str, Any]) -> tuple[int, int]:
    """Features of a number of a size, and of a text as a whole."""
    names = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    if entries.get("addition_embed_type") is None:
        for name in names:
            if entries.get(name) is not None:
                raise ValueError(
                    f"the config's {name} is {entries[name]!r}: only None is supported where "
                    "addition_embed_type is None"
                )
        return 0, 0
    numbers, total = (entries.get(name) for name in names)
    for name, value in zip(names, (numbers, total), strict=True):
        check_count(f"the config's {name}", value)  # type: ignore[arg-type]
    assert isinstance(numbers, int)
    assert isinstance(total, int)
    if total <= SIZES * numbers:
        raise ValueError(
            f"the config's {names[1]} is {total}: it must be more than {SIZES} times {names[0]}, "
            f"{numbers}"
        )
    return numbers, total - SIZES * numbers


# ----------------------------------------------------------------------------------------- network


class _Gated(nnx.Module):
    """A linear map whose second half gates the first (Shazeer 2020, equation 6, GEGLU)."""

    def __init__(self, channels: int, make: Layers) -> None:
        self.proj = make.linear(channels, 8 * channels)

    def __call__(self, x: Array) -> Array:
        values, gates = jnp.split(self.proj(x), 2, axis=-1)
        return values * jax.nn.gelu(gates, approximate=False)


class _TransformerBlock(nnx.Module):
    """Places ask each other, then the text, then themselves."""

    def __init__(self, channels: int, features: int, num_heads: int, make: Layers) -> None:
        self.norm1 = make.layer_norm(channels)
        self.attn1 = AskedAttention(channels, channels, num_heads, make)
        self.norm2 = make.layer_norm(channels)
        self.attn2 = AskedAttention(channels, features, num_heads, make)
        self.norm3 = make.layer_norm(channels)
        self.ff = FeedForward(channels, _Gated(channels, make), make)

    def __call__(self, x: Array, text: Array) -> Array:
        places = self.norm1(x)
        x = x + self.attn1(places, places)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class _Transformer(nnx.Module):
    def __init__(
        self,
        channels: int,
        features: int,
        num_heads: int,
        num: int,
        remat: bool,
        make: Layers,
    ) -> None:
        def block(rngs: nnx.Rngs) -> _TransformerBlock:
            inner = make._replace(epsilon=_TOKEN_EPSILON, rngs=rngs)
            return _TransformerBlock(channels, features, num_heads, inner)

        self.norm = make._replace(epsilon=_TRANSFORMER_EPSILON).norm(channels)
        self.proj_in = make.linear(channels, channels)
        self.transformer_blocks = Stacked(block, num, remat=remat, rngs=make.rngs)
        self.proj_out = make.linear(channels, channels)

    def __call__(self, x: Array, text: Array) -> Array:
        num, height, width, channels = x.shape
        h = self.proj_in(self.norm(x)).reshape(num, height * width, channels)
        h = self.transformer_blocks(h, text)
        return x + self.proj_out(h).reshape(x.shape)


class _Down(nnx.Module):
    """Half the side, an odd one rounded up."""

    def __init__(self, channels: int, make: Layers) -> None:
        self.conv = make.conv(channels, channels, strides=2, padding=((1, 1), (1, 1)))

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class _Level(nnx.Module):
    """Residual blocks of one resolution, with transformers behind the first of them."""

    def __init__(
        self,
        inputs: list[int],
        level: int,
        *,
        num_transformers: int,
        config: UNetConfig,
        remat: bool,
        make: Layers,
    ) -> None:
        channels, time = config.block_out_channels[level], 4 * config.block_out_channels[0]
        features, num = config.cross_attention_dim, config.transformer_layers[level]
        asked = (channels, features, config.num_heads[level], num, remat, make)
        self.resnets = nnx.List([Residual(width, channels, make, time=time) for width in inputs])
        self.attentions = nnx.List([_Transformer(*asked) for _ in range(num_transformers)])
        self.remat = remat

    def layer(self, index: int, x: Array, time: Array, text: Array) -> Array:
        """One residual block and the transformer behind it, if there is one."""
        x = run(self.resnets[index], x, time, remat=self.remat)
        if index < len(self.attentions):
            x = self.attentions[index](x, text)  # computes its blocks again by itself
        return x


class _DownLevel(_Level):
    def __init__(self, inputs: list[int], level: int, *, halves: bool, **parts: Any) -> None:
        super().__init__(inputs, level, **parts)
        channels = parts["config"].block_out_channels[level]
        self.downsamplers = nnx.List([_Down(channels, parts["make"])] if halves else [])


class _UpLevel(_Level):
    def __init__(self, inputs: list[int], level: int, *, doubles: bool, **parts: Any) -> None:
        super().__init__(inputs, level, **parts)
        channels = parts["config"].block_out_channels[level]
        self.upsamplers = nnx.List([Up(channels, parts["make"])] if doubles else [])


class UNet2DCondition(nnx.Module):
    """A latent, a time and a text to what was trained to be predicted of them.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations and softmax are
            float32 in any case.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        make = Layers(dtype, rngs, lambda channels: config.norm_num_groups, config.norm_eps)
        parts: dict[str, Any] = {"config": config, "remat": remat, "make": make}
        widths, num = config.block_out_channels, config.layers_per_block
        last = len(widths) - 1
        self.conv_in = make.conv(config.in_channels, widths[0])
        skips, width = [widths[0]], widths[0]  # channels of what is kept on the way down
        self.time_embedding = TwoLayers(width, 4 * width, make)
        if config.addition_time_embed_dim:
            told = config.pooled_features + SIZES * config.addition_time_embed_dim
            self.add_embedding = TwoLayers(told, 4 * width, make)
        down: list[_DownLevel] = []
        up: list[_UpLevel] = []
        for i, attends in enumerate(config.down_attends):
            inputs, halves = [width, *[widths[i]] * (num - 1)], i < last
            of_text = num if attends else 0
            down.append(_DownLevel(inputs, i, halves=halves, num_transformers=of_text, **parts))
            width = widths[i]
            skips += [width] * (num + halves)
        self.down_blocks = nnx.List(down)
        self.mid_block = _Level([width, width], last, num_transformers=1, **parts)
        for i, attends in zip(reversed(range(len(widths))), config.up_attends, strict=True):
            inputs = [(widths[i] if j else width) + skips.pop() for j in range(num + 1)]
            of_text = num + 1 if attends else 0
            up.append(_UpLevel(inputs, i, doubles=i > 0, num_transformers=of_text, **parts))
            width = widths[i]
        self.up_blocks = nnx.List(up)
        self.conv_norm_out = make.norm(width)
        self.conv_out = make.conv(width, config.in_channels)

    def __call__(self, x: Array, t: Array, cond: Array | SizedText) -> Array:
        """What the network says, [n, h, w, in_channels] float32.

        Args:
            x: latents [n, h, w, in_channels] float32, of any size.
            t: [n] float32, indices of training steps.
            cond: tokens of the text, [n, length, cross_attention_dim] float32; of a network that is
                told sizes too, a `SizedText`.
        """
        time = self.time_embedding(self._features(t, self.config.block_out_channels[0]))
        text = cond.text if isinstance(cond, SizedText) else cond
        if isinstance(cond, SizedText):
            numbers = self._features(cond.sizes.reshape(-1), self.config.addition_time_embed_dim)
            told = jnp.concatenate([cond.pooled, numbers.reshape(x.shape[0], -1)], axis=-1)
            time = time + self.add_embedding(told)
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            for i in range(len(level.resnets)):
                x = level.layer(i, x, time, text)
                skips.append(x)
            for halve in level.downsamplers:
                x = halve(x)
                skips.append(x)
        for i in range(len(self.mid_block.resnets)):
            x = self.mid_block.layer(i, x, time, text)
        for rising in self.up_blocks:
            for i in range(len(rising.resnets)):
                x = rising.layer(i, jnp.concatenate([x, skips.pop()], axis=-1), time, text)
            for double in rising.upsamplers:  # one less where the side was odd on the way down
                x = double(x, *skips[-1].shape[1:3])
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(jnp.float32)

    def _features(self, numbers: Array, features: int) -> Array:
        """Numbers [n] as sines and cosines [n, features]."""
        found = sinusoidal(numbers, features, shift=self.config.freq_shift)
        return found if self.config.flip_sin_to_cos else jnp.roll(found, features // 2, axis=1)


# ------------------------------------------------------------------------------------------ in use


def unet_network(
    config: UNetConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array, Array, Any], Array]:
    """`(params, x [n,*E], t [n], cond) -> [n,*E]`, the same object each time.

    See `UNet2DCondition`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(UNet2DCondition, config, dtype=compute_type(dtype), remat=bool(remat))


def load_unet(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[UNetConfig, PyTree]:
    """Reads a U-net from a folder that `diffusers` wrote: `unet/` of a pipeline.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    return load_network(folder, unet_config, UNet2DCondition, dtype=dtype)
