"""The image autoencoder of latent diffusion models (Rombach et al. 2022, section 3.1).

Attributes are named as the keys of the published files are: `decoder.up_blocks.0.resnets.1.conv2`.
One module serves Stable Diffusion, DiT and SiT (4 latent channels, convolutions of size 1 around
the latent) as well as later models with neither those nor 4 channels.

Reference: Rombach, Blattmann, Lorenz, Esser, Ommer, *High-resolution image synthesis with latent
diffusion models*, 2022, https://arxiv.org/abs/2112.10752.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, Decoder, PyTree
from jaxsearch.models.attention import attention
from jaxsearch.models.configs import MOST_BLOCKS
from jaxsearch.models.folders import (
    check_entries,
    number,
    read_config,
    read_weights,
    rename,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type, run
from jaxsearch.models.loading import abstract_network, functional
from jaxsearch.models.residual import Residual, Up
from jaxsearch.models.state_dict import load_state_dict

_EPSILON = 1e-6  # of all normalisations
_LOG_VARIANCES = (-30.0, 20.0)  # what `encode` keeps its logarithms within


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What an autoencoder is made of; the defaults are Stable Diffusion's.

    Attributes:
        block_out_channels: channels at each resolution, the finest first; each halves the side.
        layers_per_block: residual blocks at each resolution of the encoder; the decoder has one
            more.
        latent_channels: of a latent.
        norm_num_groups: groups of each normalisation; it divides all channels.
        use_quant_conv: whether a convolution of size 1 follows the encoder.
        use_post_quant_conv: whether one goes before the decoder.
        mid_block_add_attention: whether the coarsest resolution has self-attention.
        scaling_factor: what the diffusion model's latents are multiplied by, above 0.
        shift_factor: what is taken off before that.

    Raises:
        ValueError: if a number is out of its range.
    """

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        check_count("layers_per_block", self.layers_per_block, high=MOST_BLOCKS)
        for name in ("latent_channels", "norm_num_groups"):
            check_count(name, getattr(self, name))
        check_count("the number of block_out_channels", len(self.block_out_channels))
        for channels in self.block_out_channels:
            check_count("an entry of block_out_channels", channels)
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"norm_num_groups is {self.norm_num_groups}, which does not divide "
                    f"block_out_channels {self.block_out_channels}"
                )
        check_range("scaling_factor", self.scaling_factor, 0.0, open_low=True)
        check_range("shift_factor", self.shift_factor)


def autoencoder_config(entries: Mapping[str, Any]) -> AutoencoderConfig:
    """The config that `diffusers` writes beside an `AutoencoderKL`, as its `config.json` has it.

    What early files do not say is as it was when they were written: a scaling factor of 0.18215, no
    shift, both convolutions, attention.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    check_entries(
        entries,
        needed=(
            *("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups"),
            *("down_block_types", "up_block_types"),
        ),
        # The size it was trained at, and a warning of half precision: neither changes anything.
        optional=("scaling_factor", "shift_factor", "sample_size", "force_upcast"),
        fixed={
            "_class_name": ("AutoencoderKL",),
            "act_fn": ("silu",),
            "in_channels": (3,),
            "out_channels": (3,),
            "latents_mean": (None,),
            "latents_std": (None,),
            "use_quant_conv": (True, False),
            "use_post_quant_conv": (True, False),
            "mid_block_add_attention": (True, False),
        },
    )
    for name in ("block_out_channels", "down_block_types", "up_block_types"):
        if not isinstance(entries[name], list | tuple):
            raise ValueError(f"the config's {name} is {entries[name]!r}: it must be a list")
    channels = entries["block_out_channels"]
    blocks = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
    for name, kind in blocks.items():
        if list(entries[name]) != [kind] * len(channels):
            raise ValueError(
                f"the config's {name} is {entries[name]!r}: only {kind!r} is supported, once for "
                f"each of block_out_channels {list(channels)}"
            )
    taken = {field.name for field in dataclasses.fields(AutoencoderConfig)}
    settings = {name: value for name, value in entries.items() if name in taken}
    settings["block_out_channels"] = tuple(channels)
    settings["scaling_factor"] = number(entries, "scaling_factor", 0.18215)
    shifted = entries.get("shift_factor") is not None
    settings["shift_factor"] = number(entries, "shift_factor", 0.0) if shifted else 0.0
    return AutoencoderConfig(**settings)


# ----------------------------------------------------------------------------------------- network


class _Attention(nnx.Module):
    """Self-attention of all places, by one head of all channels."""

    def __init__(self, channels: int, layers: Layers) -> None:
        self.group_norm = layers.norm(channels)
        self.to_q = layers.linear(channels, channels)
        self.to_k = layers.linear(channels, channels)
        self.to_v = layers.linear(channels, channels)
        self.to_out = nnx.List([layers.linear(channels, channels)])

    def __call__(self, x: Array) -> Array:
        num, height, width, channels = x.shape
        places = self.group_norm(x).reshape(num, height * width, 1, channels)
        h = attention(self.to_q(places), self.to_k(places), self.to_v(places))
        return x + self.to_out[0](h).reshape(x.shape)


class _Middle(nnx.Module):
    def __init__(self, channels: int, attends: bool, layers: Layers) -> None:
        self.resnets = nnx.List([Residual(channels, channels, layers) for _ in range(2)])
        self.attentions = nnx.List([_Attention(channels, layers)] if attends else [])

    def __call__(self, x: Array) -> Array:
        x = self.resnets[0](x)
        for block in self.attentions:
            x = block(x)
        return self.resnets[1](x)


class _Down(nnx.Module):
    """Half the side. One row and column of zeros is added at the end only."""

    def __init__(self, channels: int, layers: Layers) -> None:
        self.conv = layers.conv(channels, channels, strides=2, padding=((0, 1), (0, 1)))

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class _Resolution(nnx.Module):
    """Residual blocks, then a change of side under the name that it has in a checkpoint."""

    def __init__(
        self, inputs: int, outputs: int, num: int, change: nnx.Module | None, name: str, layers: Any
    ) -> None:
        widths = [inputs, *[outputs] * num]
        pairs = itertools.pairwise(widths)
        self.resnets = nnx.List([Residual(a, b, layers) for a, b in pairs])
        self.name = name
        setattr(self, name, nnx.List([] if change is None else [change]))

    def __call__(self, x: Array) -> Array:
        for block in (*self.resnets, *getattr(self, self.name)):
            x = block(x)
        return x


class _Encoder(nnx.Module):
    def __init__(self, config: AutoencoderConfig, layers: Layers) -> None:
        widths = config.block_out_channels
        self.conv_in = layers.conv(3, widths[0])
        blocks = []
        for i, (inputs, outputs) in enumerate(zip(widths[:1] + widths[:-1], widths, strict=True)):
            change = _Down(outputs, layers) if i < len(widths) - 1 else None
            num = config.layers_per_block
            blocks.append(_Resolution(inputs, outputs, num, change, "downsamplers", layers))
        self.down_blocks = nnx.List(blocks)
        self.mid_block = _Middle(widths[-1], config.mid_block_add_attention, layers)
        self.conv_norm_out = layers.norm(widths[-1])
        self.conv_out = layers.conv(widths[-1], 2 * config.latent_channels)

    def __call__(self, x: Array) -> Array:
        x = self.conv_in(x)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class _Decoder(nnx.Module):
    def __init__(self, config: AutoencoderConfig, remat: bool, layers: Layers) -> None:
        self.remat = remat
        widths = config.block_out_channels[::-1]
        self.conv_in = layers.conv(config.latent_channels, widths[0])
        self.mid_block = _Middle(widths[0], config.mid_block_add_attention, layers)
        blocks = []
        for i, (inputs, outputs) in enumerate(zip(widths[:1] + widths[:-1], widths, strict=True)):
            change = Up(outputs, layers) if i < len(widths) - 1 else None
            num = config.layers_per_block + 1
            blocks.append(_Resolution(inputs, outputs, num, change, "upsamplers", layers))
        self.up_blocks = nnx.List(blocks)
        self.conv_norm_out = layers.norm(widths[-1])
        self.conv_out = layers.conv(widths[-1], 3)

    def __call__(self, x: Array) -> Array:
        x = self.conv_in(x)
        for block in (self.mid_block, *self.up_blocks):
            x = run(block, x, remat=self.remat)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """Images to the Gaussians of their latents, and latents to images.

    Args:
        config: what it is made of.
        with_encoder: whether it can encode; a search only decodes.
        dtype: float32 or bfloat16, in which products are computed. Normalisations and softmax are
            float32 in any case.
        remat: whether a gradient through the decoder computes each resolution again instead of
            keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        with_encoder: bool = True,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        layers = Layers(dtype, rngs, lambda channels: config.norm_num_groups, _EPSILON)
        latent = config.latent_channels
        if with_encoder:
            self.encoder = _Encoder(config, layers)
            if config.use_quant_conv:
                self.quant_conv = layers.linear(2 * latent, 2 * latent)
        if config.use_post_quant_conv:
            self.post_quant_conv = layers.linear(latent, latent)
        self.decoder = _Decoder(config, remat, layers)

    def encode(self, images: Array) -> tuple[Array, Array]:
        """Mean and logarithm of the variance, both [n, h/f, w/f, latent_channels] float32.

        Each of the `len(block_out_channels) - 1` halvings in `f` rounds an odd side down.

        Args:
            images: [n, h, w, 3] float32 in [-1, 1].
        """
        moments = self.encoder(images)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCES)

    def decode(self, latents: Array) -> Array:
        """Images [n, h*f, w*f, 3] float32, of about [-1, 1] but not clipped.

        Args:
            latents: [n, h, w, latent_channels] float32 as `encode` gives them: neither scaled nor
                shifted.
        """
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents).astype(jnp.float32)


# ---------------------------------------------------------------------------------- use in a search


@functools.cache
def _network(
    config: AutoencoderConfig, method: str, dtype: Any, **settings: bool
) -> Callable[..., Any]:
    return functional(
        lambda rngs: AutoencoderKL(config, dtype=dtype, rngs=rngs, **settings), method
    )


def encoder_network(
    config: AutoencoderConfig, *, dtype: Any = jnp.float32
) -> Callable[[PyTree, Array], tuple[Array, Array]]:
    """`(params, images [n,h,w,3] in [-1, 1]) -> (mean, log_variance)`, the same object each time.

    See `AutoencoderKL.encode`; the parameters are those of the whole autoencoder.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return _network(config, "encode", compute_type(dtype))


def autoencoder_decoder(
    config: AutoencoderConfig,
    params: PyTree,
    *,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Decoder:
    """A decoder of a diffusion model's latents.

        images = decode(latents / scaling_factor + shift_factor),  [-1, 1] to [0, 1], clipped

    Args:
        config: what the autoencoder is made of.
        params: weights of the whole autoencoder or of its decoding half; only the latter are kept.
        dtype: float32 or bfloat16, in which products are computed.
        remat: whether a gradient computes each resolution again instead of keeping what is inside
            it.

    Returns:
        Latents [n, h, w, latent_channels] to images [n, h*f, w*f, 3], float32 in [0, 1], with
        `f = 2^(len(block_out_channels) - 1)`. Equal configs share one function.

    Raises:
        ValueError: if the type is another one.
    """
    used = {name: part for name, part in params.items() if name in ("decoder", "post_quant_conv")}
    return Decoder(apply=_decode(config, compute_type(dtype), bool(remat)), params=used)


@functools.cache
def _decode(config: AutoencoderConfig, dtype: Any, remat: bool) -> Callable[[PyTree, Array], Array]:
    network = _network(config, "decode", dtype, with_encoder=False, remat=remat)

    def apply(params: PyTree, latents: Array) -> Array:
        unscaled = latents.astype(jnp.float32) / config.scaling_factor + config.shift_factor
        return jnp.clip((network(params, unscaled) + 1.0) / 2.0, 0.0, 1.0)

    return apply


def load_autoencoder(
    folder: str | os.PathLike[str], *, with_encoder: bool = False, dtype: Any = jnp.float32
) -> tuple[AutoencoderConfig, PyTree]:
    """Reads an autoencoder from a folder that `diffusers` wrote: `vae/` of a pipeline, or its own.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`.
        with_encoder: whether to keep the encoder's weights as well.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = autoencoder_config(read_config(folder))
    tensors = rename(read_weights(folder), present_name)
    if not with_encoder:
        encoding = ("encoder.", "quant_conv.")
        tensors = {key: value for key, value in tensors.items() if not key.startswith(encoding)}
    module = abstract_network(
        AutoencoderKL, config, with_encoder=with_encoder, dtype=compute_type(dtype)
    )
    return config, load_state_dict(module, tensors, source=weights_path(folder))


def check_latents(folder: str | os.PathLike[str], channels: int) -> None:
    """Refuses an autoencoder whose latents are not those of a network.

    Raises:
        ValueError: if its config cannot be read, or has another number of channels.
    """
    found = autoencoder_config(read_config(folder)).latent_channels
    if found != channels:
        raise ValueError(f"{folder}: its latents have {found} channels, the network's {channels}")


_FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def present_name(key: str) -> str:
    """The key by which a tensor of an autoencoder goes now; files of 2022 name attention's others.

    So `encoder.mid_block.attentions.0.query.bias` is `encoder.mid_block.attentions.0.to_q.bias`.
    """
    return re.sub(
        rf"(\.mid_block\.attentions\.0\.)({'|'.join(_FORMER)})(?=\.)",
        lambda found: found[1] + _FORMER[found[2]],
        key,
    )
