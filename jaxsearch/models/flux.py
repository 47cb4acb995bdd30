"""The transformer of FLUX.1: patches and text tokens in two streams, then in one.

Attributes are named as the keys of `diffusers` are: `single_transformer_blocks.0.attn.to_q`.

Blocks of two streams are those of Esser, Kulal, Blattmann et al., *Scaling rectified flow
transformers for high-resolution image synthesis*, 2024, section 4, https://arxiv.org/abs/2403.03206;
those of one have attention and perceptron side by side, as in Dehghani, Djolonga, Mustafa et al.,
*Scaling vision transformers to 22 billion parameters*, 2023, section 2,
https://arxiv.org/abs/2302.05442. Places are told by turning queries and keys (Su et al. 2021). The
scale of guidance is a number among what the network is told, as in Meng, Rombach, Gao et al., *On
distillation of guided diffusion models*, 2023, section 3.1, https://arxiv.org/abs/2210.03142.
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
from jaxsearch.models.configs import MOST_BLOCKS
from jaxsearch.models.folders import check_entries
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import network_of
from jaxsearch.models.network_folder import load_network
from jaxsearch.models.rotary import Turns, turns_of_grid
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.two_streams import (
    Condition,
    Modulation,
    StreamAttention,
    TwoStreamBlock,
    modulated,
)

PATCH = 2
"""Side of the square of latent places that is one token."""

_OF_GUIDANCE = 1000.0  # what a scale of 1 is to the network, as is a time of 1
_AXES = (16, 56, 56)


class GuidedText(NamedTuple):
    """What the network is told.

    Attributes:
        tokens: of the text, [n, length, joint_attention_dim] float32.
        pooled: the text as a whole, [n, pooled_projection_dim] float32.
        guidance: the scale of guidance that it is to imitate, [n] float32; None where it was not
            distilled to follow one (`FluxConfig.guidance_embeds`).
    """

    tokens: Array
    pooled: Array
    guidance: Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FluxConfig:
    """What the transformer is made of; the defaults are those of FLUX.1-dev.

    Attributes:
        in_channels: of a token: of a latent, four times.
        num_layers: number of blocks of two streams.
        num_single_layers: number of blocks of one.
        attention_head_dim: channels of a head.
        num_attention_heads: of each attention.
        joint_attention_dim: features of a token of the text.
        pooled_projection_dim: features of a text as a whole.
        guidance_embeds: whether it is told a scale of guidance.
        axes_dims_rope: how many channels of a head tell of nothing, of a token's row and of its
            column; even numbers, together `attention_head_dim`.

    Raises:
        ValueError: if a number is out of its range.
    """

    in_channels: int = 64
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = True
    axes_dims_rope: tuple[int, ...] = _AXES

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.type == "int":
                most = {"high": MOST_BLOCKS} if field.name.endswith("layers") else {}
                check_count(field.name, getattr(self, field.name), **most)
        if self.in_channels % PATCH**2:
            raise ValueError(
                f"in_channels is {self.in_channels}: it must be a multiple of {PATCH**2}"
            )
        if len(self.axes_dims_rope) != len(_AXES):
            raise ValueError(f"axes_dims_rope is {self.axes_dims_rope}: it must be three numbers")
        for channels in self.axes_dims_rope:
            check_count("an entry of axes_dims_rope", channels, 0)
            if channels % 2:
                raise ValueError(f"an entry of axes_dims_rope is {channels}: it must be even")
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            raise ValueError(
                f"axes_dims_rope is {self.axes_dims_rope}: its sum must be attention_head_dim, "
                f"{self.attention_head_dim}"
            )

    @property
    def hidden_size(self) -> int:
        """Features of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def latent_channels(self) -> int:
        """Of a latent, also of the output."""
        return self.in_channels // PATCH**2


def flux_config(entries: Mapping[str, Any]) -> FluxConfig:
    """The config that `diffusers` writes beside a `FluxTransformer2DModel`.

    What early files do not say is as it was when they were written: the axes (16, 56, 56).

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    optional = ("axes_dims_rope",)
    needed = [f.name for f in dataclasses.fields(FluxConfig) if f.name not in optional]
    check_entries(
        entries,
        needed=needed,
        optional=(*optional, "out_channels"),
        fixed={
            "_class_name": ("FluxTransformer2DModel",),
            "guidance_embeds": (True, False),
            # Its tokens are squares of latents already.
            "patch_size": (1,),
        },
    )
    axes = entries.get("axes_dims_rope", _AXES)
    if not isinstance(axes, list | tuple):
        raise ValueError(f"the config's axes_dims_rope is {axes!r}: it must be a list")
    config = FluxConfig(
        **{name: entries[name] for name in needed},
        axes_dims_rope=tuple(axes),
    )
    outputs = entries.get("out_channels")
    if outputs not in (None, config.in_channels):
        raise ValueError(
            f"the config's out_channels is {outputs!r}: only {config.in_channels} is supported"
        )
    return config


# ----------------------------------------------------------------------------------------- network


class _Double(TwoStreamBlock):
    """A block of two streams, as a loop carries them."""

    def __call__(  # type: ignore[override]
        self, streams: tuple[Array, Array], condition: Array, turns: Turns
    ) -> tuple[Array, Array]:
        return super().__call__(*streams, condition, turns)


class _Single(nnx.Module):
    """Attention and perceptron of one stream, side by side, then one layer for both."""

    def __init__(self, config: FluxConfig, make: Layers) -> None:
        size = config.hidden_size
        self.norm = Modulation(size, 3, make)
        self.proj_mlp = make.linear(size, 4 * size)
        self.proj_out = make.linear(5 * size, size)
        self.attn = StreamAttention(
            size, config.num_attention_heads, make, normalises=True, joint=False, leaves=False
        )

    def __call__(self, x: Array, condition: Array, turns: Turns) -> Array:
        shift, scale, gate = self.norm(condition)
        inner = modulated(x, shift, scale)
        mixed, _ = self.attn(inner, turns=turns)
        wide = jax.nn.gelu(self.proj_mlp(inner), approximate=True)
        change = self.proj_out(jnp.concatenate([mixed, wide], axis=-1))
        return x + gate * change.astype(jnp.float32)


class Flux(nnx.Module):
    """A latent, a time, a text and a scale of guidance to the velocity of the latent.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax, turns,
            modulation and what is passed from block to block are float32 in any case.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: FluxConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        make, size, heads = Layers(dtype, rngs), config.hidden_size, config.num_attention_heads
        self.x_embedder = make.linear(config.in_channels, size)
        self.context_embedder = make.linear(config.joint_attention_dim, size)
        self.time_text_embed = Condition(
            size, config.pooled_projection_dim, make, guided=config.guidance_embeds
        )
        self.transformer_blocks = Stacked(
            lambda rngs: _Double(size, heads, Layers(dtype, rngs), normalises=True),
            config.num_layers,
            remat=remat,
            rngs=rngs,
        )
        self.single_transformer_blocks = Stacked(
            lambda rngs: _Single(config, Layers(dtype, rngs)),
            config.num_single_layers,
            remat=remat,
            rngs=rngs,
        )
        self.norm_out = Modulation(size, 2, make)
        self.proj_out = make.linear(size, config.in_channels)

    def __call__(self, x: Array, t: Array, text: GuidedText) -> Array:
        """The velocity `eps - x0`, [n, h, w, latent_channels] float32.

        Args:
            x: latents [n, h, w, latent_channels] float32, of even sides.
            t: [n] float32, a thousand times the noise's share.
            text: what it is told.

        Raises:
            ValueError: if it is told a scale of guidance that it was not distilled to follow, or
                none where it was.
        """
        if (text.guidance is not None) != self.config.guidance_embeds:
            wrong = "no guidance, but" if self.config.guidance_embeds else "a guidance, though"
            raise ValueError(
                f"the network is told {wrong} guidance_embeds is {self.config.guidance_embeds}"
            )
        height, width = x.shape[1] // PATCH, x.shape[2] // PATCH
        guidance = None if text.guidance is None else _OF_GUIDANCE * text.guidance
        condition = self.time_text_embed(t, text.pooled, guidance)
        turns = turns_of_grid(height, width, self.config.axes_dims_rope, text.tokens.shape[1])
        h = self.x_embedder(packed(x)).astype(jnp.float32)
        words = self.context_embedder(text.tokens).astype(jnp.float32)
        streams = self.transformer_blocks((h, words), condition, turns)
        h = self.single_transformer_blocks(jnp.concatenate(streams, axis=1), condition, turns)
        scale, shift = self.norm_out(condition)
        h = self.proj_out(modulated(h[:, : height * width], shift, scale))
        return unpacked(h, height, width).astype(jnp.float32)


def packed(x: Array) -> Array:
    """Latents [n, h, w, c] to tokens [n, h/2 * w/2, 4c]: each channel's square of places."""
    num, height, width, channels = x.shape
    squares = x.reshape(num, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    return squares.transpose(0, 1, 3, 5, 2, 4).reshape(num, -1, PATCH**2 * channels)


def unpacked(tokens: Array, height: int, width: int) -> Array:
    """Tokens [n, height * width, 4c] to latents [n, 2 * height, 2 * width, c]."""
    squares = tokens.reshape(len(tokens), height, width, -1, PATCH, PATCH)
    latents = squares.transpose(0, 1, 4, 2, 5, 3)
    return latents.reshape(len(tokens), PATCH * height, PATCH * width, -1)


# ------------------------------------------------------------------------------------------ in use


def flux_network(
    config: FluxConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array, Array, GuidedText], Array]:
    """`(params, x [n,*E], t [n], text) -> velocity [n,*E]`, the same object each time.

    See `Flux`.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(Flux, config, dtype=compute_type(dtype), remat=bool(remat))


def load_flux(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[FluxConfig, PyTree]:
    """Reads a transformer from a folder that `diffusers` wrote: `transformer/` of a pipeline.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`, in one file or in
            several with an index.
        dtype: float32 or bfloat16: what the weights become, normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    return load_network(folder, flux_config, Flux, dtype=dtype)
