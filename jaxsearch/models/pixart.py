"""PixArt's transformer: patches of a latent that ask each other and a long text.

Attributes are named as the keys of `diffusers` are: `transformer_blocks.0.attn2.to_q`.

References: Chen, Yu, Ge et al., *PixArt-alpha: fast training of diffusion transformer for
photorealistic text-to-image synthesis*, 2023, section 2.3, https://arxiv.org/abs/2310.00426; Chen,
Ge, Xie et al., *PixArt-Sigma: weak-to-strong training of diffusion transformer for 4K text-to-image
generation*, 2024, https://arxiv.org/abs/2403.04692.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.asked_attention import AskedAttention
from jaxsearch.models.configs import LARGEST_SIDE
from jaxsearch.models.dit import line_embedding, normalise
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.feed_forward import FeedForward, Gelu, TwoLayers
from jaxsearch.models.folders import (
    check_entries,
    number,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import functional
from jaxsearch.models.network_folder import load_network
from jaxsearch.models.stacked import Stacked

_TIME_FEATURES = 256
_LAST_EPSILON = 1e-6  # of the normalisation before the output


class MaskedText(NamedTuple):
    """A text as the network is told it.

    Attributes:
        tokens: [n, length, caption_channels] float32.
        seen: [n, length] bool, which of them are no padding; one at least of each text.
    """

    tokens: Array
    seen: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixArtConfig:
    """What the transformer is made of; the defaults are those of PixArt-Sigma XL/2 at 1024 pixels.

    Attributes:
        sample_size: side of the latents that it was trained with; it takes others.
        patch_size: side of a patch, a divisor of `sample_size`.
        in_channels: channels of a latent.
        out_channels: of the output: as many, or twice as many where it says a variance too.
        num_layers: number of blocks.
        num_attention_heads: of each attention.
        attention_head_dim: channels of a head; all heads' together are a multiple of 4.
        caption_channels: features of a token of the text.
        interpolation_scale: by what positions are divided, above 0.
        norm_eps: of the normalisations in blocks, above 0.

    Raises:
        ValueError: if a number is out of its range.
    """

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 4
    out_channels: int = 8
    num_layers: int = 28
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    caption_channels: int = 4096
    interpolation_scale: float = 2.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_count("sample_size", self.sample_size, high=LARGEST_SIDE)
        for field in dataclasses.fields(self):
            if field.type == "int":
                check_count(field.name, getattr(self, field.name))
        if self.sample_size % self.patch_size:
            raise ValueError(
                f"sample_size is {self.sample_size}: it must be a multiple of patch_size, "
                f"{self.patch_size}"
            )
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(
                f"out_channels is {self.out_channels}: it must be in_channels, {self.in_channels}, "
                "or twice as many"
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"num_attention_heads times attention_head_dim is {self.hidden_size}: it must be a "
                "multiple of 4"
            )
        check_range("interpolation_scale", self.interpolation_scale, 0.0, open_low=True)
        check_range("norm_eps", self.norm_eps, 0.0, open_low=True)

    @property
    def hidden_size(self) -> int:
        """Features of a patch."""
        return self.num_attention_heads * self.attention_head_dim


_CLASSES = ("PixArtTransformer2DModel", "Transformer2DModel")
"""The class now, and the one that it was a case of when the first files were written."""


def pixart_config(entries: Mapping[str, Any]) -> PixArtConfig:
    """The config that `diffusers` writes beside a `PixArtTransformer2DModel`.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    taken = [field.name for field in dataclasses.fields(PixArtConfig)]
    needed = [name for name in taken if name not in ("interpolation_scale", "norm_eps")]
    check_entries(
        entries,
        needed=(*needed, "cross_attention_dim", "norm_type"),
        # Of other normalisations, and of how often a time was trained.
        optional=(
            *("interpolation_scale", "norm_eps", "norm_num_groups", "num_embeds_ada_norm"),
            # The type of scores, which are float32 here in any case; and a layer's form.
            *("upcast_attention", "use_linear_projection"),
        ),
        fixed={
            "_class_name": _CLASSES,
            "activation_fn": ("gelu-approximate",),
            "attention_bias": (True,),
            "attention_type": ("default",),
            "double_self_attention": (False,),
            "dropout": (0.0, 0),
            "norm_elementwise_affine": (False,),
            "norm_type": ("ada_norm_single",),
            "num_vector_embeds": (None,),
            "only_cross_attention": (False,),
            # Left out it hangs on the size, and what is told then are numbers that Sigma has not.
            "use_additional_conditions": (False,)
            if entries.get("sample_size") == 128
            else (False, None),
        },
    )
    if entries.get("sample_size") == 128 and "use_additional_conditions" not in entries:
        raise ValueError(
            "the config has no entry 'use_additional_conditions': at this size it is told more "
            "numbers where nothing else is said, which is not supported"
        )
    side = entries["sample_size"]
    settings = {name: entries[name] for name in needed}
    stated = entries.get("interpolation_scale") is not None
    default = float(max(side // 64, 1)) if isinstance(side, int) else 1.0
    scale = number(entries, "interpolation_scale", default) if stated else default
    config = PixArtConfig(
        **settings, interpolation_scale=scale, norm_eps=number(entries, "norm_eps", 1e-6)
    )
    if entries["cross_attention_dim"] != config.hidden_size:
        raise ValueError(
            f"the config's cross_attention_dim is {entries['cross_attention_dim']!r}: only that of "
            f"a patch, {config.hidden_size}, is supported"
        )
    return config


# ----------------------------------------------------------------------------------------- network


class _Patches(nnx.Module):
    """Patches as tokens that know where they stand."""

    def __init__(self, config: PixArtConfig, make: Layers) -> None:
        self.config = config
        self.proj = make.patches(config.in_channels, config.hidden_size, config.patch_size)

    def __call__(self, x: Array) -> Array:
        patches = self.proj(x).astype(jnp.float32)
        height, width = patches.shape[1:3]
        half = patches.shape[-1] // 2
        column, row = (self._line(side, half) for side in (width, height))
        places = jnp.concatenate(
            [
                jnp.broadcast_to(column[None], (height, width, half)),
                jnp.broadcast_to(row[:, None], (height, width, half)),
            ],
            axis=-1,
        )
        return (patches + places[None]).reshape(len(x), height * width, -1)

    def _line(self, side: int, features: int) -> Array:
        """Places along a side, as if it had the length that it was trained with."""
        trained = self.config.sample_size // self.config.patch_size
        places = np.arange(side) / (side / trained) / self.config.interpolation_scale
        return jnp.asarray(line_embedding(places, features), jnp.float32)


class _Embedding(nnx.Module):
    def __init__(self, size: int, make: Layers) -> None:
        self.timestep_embedder = TwoLayers(_TIME_FEATURES, size, make)

    def __call__(self, t: Array) -> Array:
        return self.timestep_embedder(sinusoidal(t, _TIME_FEATURES))


class _Modulation(nnx.Module):
    """One modulation by the time for all blocks, to which each adds its own ("adaLN-single")."""

    def __init__(self, size: int, make: Layers) -> None:
        self.emb = _Embedding(size, make)
        self.linear = make.linear(size, 6 * size)

    def __call__(self, t: Array) -> tuple[Array, Array]:
        embedded = self.emb(t)
        return self.linear(jax.nn.silu(embedded)).astype(jnp.float32), embedded.astype(jnp.float32)


class _Block(nnx.Module):
    """Patches ask each other, then the text, then themselves; the text's part is not modulated."""

    def __init__(self, config: PixArtConfig, make: Layers) -> None:
        size, heads = config.hidden_size, config.num_attention_heads
        self.epsilon = config.norm_eps
        self.scale_shift_table = nnx.Param(jnp.zeros((6, size), jnp.float32))
        self.attn1 = AskedAttention(size, size, heads, make, use_bias=True)
        self.attn2 = AskedAttention(size, size, heads, make, use_bias=True)
        self.ff = FeedForward(size, Gelu(size, make), make)

    def __call__(self, x: Array, time: Array, text: Array, seen: Array) -> Array:
        table = self.scale_shift_table[...].astype(jnp.float32)
        rows = table[None] + time.reshape(len(x), 6, -1)
        shift, scale, gate, next_shift, next_scale, next_gate = (
            rows[:, i : i + 1] for i in range(6)
        )
        places = normalise(x, self.epsilon) * (1.0 + scale) + shift
        x = x + gate * self.attn1(places, places).astype(jnp.float32)
        x = x + self.attn2(x, text, seen).astype(jnp.float32)
        places = normalise(x, self.epsilon) * (1.0 + next_scale) + next_shift
        return x + next_gate * self.ff(places).astype(jnp.float32)


class PixArt(nnx.Module):
    """A latent, a time and a text to the noise in it.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax,
            modulation and what is passed from block to block are float32 in any case.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: PixArtConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        make, size = Layers(dtype, rngs), config.hidden_size
        self.pos_embed = _Patches(config, make)
        self.adaln_single = _Modulation(size, make)
        self.caption_projection = TwoLayers(
            config.caption_channels, size, make, functools.partial(jax.nn.gelu, approximate=True)
        )
        self.transformer_blocks = Stacked(
            lambda rngs: _Block(config, Layers(dtype, rngs)),
            config.num_layers,
            remat=remat,
            rngs=rngs,
        )
        self.scale_shift_table = nnx.Param(jnp.zeros((2, size), jnp.float32))
        self.proj_out = make.linear(size, config.patch_size**2 * config.out_channels)

    def __call__(self, x: Array, t: Array, text: MaskedText) -> Array:
        """What the network says, [n, h, w, out_channels] float32.

        Args:
            x: latents [n, h, w, in_channels] float32, of sides that are multiples of `patch_size`.
            t: [n] float32, indices of training steps.
            text: what it is told.
        """
        patch, channels = self.config.patch_size, self.config.out_channels
        num, height, width = x.shape[0], x.shape[1] // patch, x.shape[2] // patch
        modulation, time = self.adaln_single(t)
        tokens = self.caption_projection(text.tokens)
        h = self.transformer_blocks(self.pos_embed(x), modulation, tokens, text.seen)
        table = self.scale_shift_table[...].astype(jnp.float32)
        shift, scale = (table[i][None, None] + time[:, None] for i in range(2))
        h = self.proj_out(normalise(h, _LAST_EPSILON) * (1.0 + scale) + shift)
        h = h.reshape(num, height, width, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
        return h.reshape(num, height * patch, width * patch, channels).astype(jnp.float32)


# ------------------------------------------------------------------------------------------ in use


def pixart_network(
    config: PixArtConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array, Array, MaskedText], Array]:
    """`(params, x [n,*E], t [n], text) -> noise [n,*E]`, the same object each time.

    Of an output that says a variance too, which no solver here reads, it is the first half.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return _network(config, compute_type(dtype), bool(remat))


@functools.cache
def _network(config: PixArtConfig, dtype: Any, remat: bool) -> Callable[..., Array]:
    whole = functional(lambda rngs: PixArt(config, dtype=dtype, remat=remat, rngs=rngs))

    def apply(params: PyTree, x: Array, t: Array, text: MaskedText) -> Array:
        return whole(params, x, t, text)[..., : config.in_channels]

    return apply


def load_pixart(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[PixArtConfig, PyTree]:
    """Reads a transformer from a folder that `diffusers` wrote: `transformer/` of a pipeline.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`.
        dtype: float32 or bfloat16: what the weights become, the tables of modulation apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    return load_network(folder, pixart_config, PixArt, dtype=dtype)
