"""The transformer of Stable Diffusion 3 and 3.5: patches and text tokens in one attention.

Attributes are named as the keys of `diffusers` are: `transformer_blocks.0.attn.add_q_proj`.

Reference: Esser, Kulal, Blattmann et al., *Scaling rectified flow transformers for high-resolution
image synthesis*, 2024, section 4 and figure 2, https://arxiv.org/abs/2403.03206. Version 3.5 adds,
in some blocks, a second attention of the patches alone, and normalises queries and keys.
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
from jaxsearch.models.configs import LARGEST_SIDE, MOST_BLOCKS
from jaxsearch.models.folders import check_entries
from jaxsearch.models.layers import Layers, compute_type, run
from jaxsearch.models.loading import network_of
from jaxsearch.models.network_folder import load_network
from jaxsearch.models.placing import shapes_alone
from jaxsearch.models.two_streams import Condition, Modulation, TwoStreamBlock, modulated


class PooledText(NamedTuple):
    """A text as the network is told it.

    Attributes:
        tokens: [n, length, joint_attention_dim] float32.
        pooled: the text as a whole, [n, pooled_projection_dim] float32.
    """

    tokens: Array
    pooled: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """What the transformer is made of; the defaults are those of Stable Diffusion 3 medium.

    Attributes:
        sample_size: side of the latents that it was trained with; it takes others.
        patch_size: side of a patch, a divisor of `sample_size`.
        in_channels: channels of a latent, also of the output.
        num_layers: number of blocks.
        attention_head_dim: channels of a head.
        num_attention_heads: of each attention.
        joint_attention_dim: features of a token of the text.
        pooled_projection_dim: features of a text as a whole.
        pos_embed_max_size: the most patches side by side.
        dual_attention_layers: blocks with a second attention of the patches alone, from 0.
        qk_norm: whether queries and keys are divided by their root mean square.

    Raises:
        ValueError: if a number is out of its range.
    """

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    num_layers: int = 24
    attention_head_dim: int = 64
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 2048
    pos_embed_max_size: int = 192
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_count("sample_size", self.sample_size, high=LARGEST_SIDE)
        check_count("num_layers", self.num_layers, high=MOST_BLOCKS)
        check_count("pos_embed_max_size", self.pos_embed_max_size, high=LARGEST_SIDE)
        for field in dataclasses.fields(self):
            if field.type == "int":
                check_count(field.name, getattr(self, field.name))
        if self.sample_size % self.patch_size:
            raise ValueError(
                f"sample_size is {self.sample_size}: it must be a multiple of patch_size, "
                f"{self.patch_size}"
            )
        for block in self.dual_attention_layers:
            check_count("an entry of dual_attention_layers", block, 0, self.num_layers - 1)

    @property
    def hidden_size(self) -> int:
        """Features of a patch."""
        return self.num_attention_heads * self.attention_head_dim


def mmdit_config(entries: Mapping[str, Any]) -> MMDiTConfig:
    """The config that `diffusers` writes beside an `SD3Transformer2DModel`.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    optional = ("dual_attention_layers", "qk_norm")
    needed = [f.name for f in dataclasses.fields(MMDiTConfig) if f.name not in optional]
    check_entries(
        entries,
        needed=(*needed, "caption_projection_dim", "out_channels"),
        optional=("dual_attention_layers",),
        fixed={"_class_name": ("SD3Transformer2DModel",), "qk_norm": (None, "rms_norm")},
    )
    dual = entries.get("dual_attention_layers")
    if not isinstance(dual, list | tuple | None):
        raise ValueError(f"the config's dual_attention_layers is {dual!r}: it must be a list")
    config = MMDiTConfig(
        **{name: entries[name] for name in needed},
        dual_attention_layers=tuple(dual or ()),
        qk_norm=entries.get("qk_norm") is not None,
    )
    for name, only in (
        ("caption_projection_dim", config.hidden_size),
        ("out_channels", config.in_channels),
    ):
        if entries[name] != only:
            raise ValueError(f"the config's {name} is {entries[name]!r}: only {only} is supported")
    return config


# ----------------------------------------------------------------------------------------- network


class _Patches(nnx.Module):
    """Patches as tokens, and where they stand.

    The table of places never changes, but the files hold it, so it is a weight among others here.
    """

    def __init__(self, config: MMDiTConfig, make: Layers) -> None:
        self.proj = make.patches(config.in_channels, config.hidden_size, config.patch_size)
        places = config.pos_embed_max_size**2
        self.pos_embed = nnx.Param(jnp.zeros((1, places, config.hidden_size), jnp.float32))

    def __call__(self, x: Array) -> Array:
        patches = self.proj(x).astype(jnp.float32)
        return (patches + self.pos_embed[...]).reshape(len(x), -1, patches.shape[-1])


class MMDiT(nnx.Module):
    """A latent, a time and a text to the velocity of the latent.

    Args:
        config: what it is made of.
        dtype: float32 or bfloat16, in which products are computed. Normalisations, softmax,
            modulation and what is passed from block to block are float32 in any case.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        config: MMDiTConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, self.remat = config, remat
        make, size = Layers(dtype, rngs), config.hidden_size
        self.pos_embed = _Patches(config, make)
        self.time_text_embed = Condition(size, config.pooled_projection_dim, make)
        self.context_embedder = make.linear(config.joint_attention_dim, size)
        last = config.num_layers - 1
        # They are of up to three kinds, so they are no one loop.
        self.transformer_blocks = nnx.List(
            [
                TwoStreamBlock(
                    size,
                    config.num_attention_heads,
                    make,
                    normalises=config.qk_norm,
                    dual=i in config.dual_attention_layers,
                    last=i == last,
                )
                for i in range(config.num_layers)
            ]
        )
        self.norm_out = Modulation(size, 2, make)
        self.proj_out = make.linear(size, config.patch_size**2 * config.in_channels)

    def __call__(self, x: Array, t: Array, text: PooledText) -> Array:
        """The velocity `eps - x0`, [n, h, w, in_channels] float32.

        Its parameters are those that `placed` gives for latents of this size.

        Args:
            x: latents [n, h, w, in_channels] float32, of sides that are multiples of `patch_size`.
            t: [n] float32, a thousand times the noise's share.
            text: what it is told.
        """
        patch, channels = self.config.patch_size, self.config.in_channels
        num, height, width = x.shape[0], x.shape[1] // patch, x.shape[2] // patch
        condition = self.time_text_embed(t, text.pooled)
        words = self.context_embedder(text.tokens).astype(jnp.float32)
        h = self.pos_embed(x)
        for block in self.transformer_blocks:
            h, words = run(block, h, words, condition, remat=self.remat)
        scale, shift = self.norm_out(condition)
        h = self.proj_out(modulated(h, shift, scale))
        h = h.reshape(num, height, width, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
        return h.reshape(num, height * patch, width * patch, channels).astype(jnp.float32)


# ------------------------------------------------------------------------------------------ in use


def mmdit_network(
    config: MMDiTConfig, *, dtype: Any = jnp.float32, remat: bool = False
) -> Callable[[PyTree, Array, Array, PooledText], Array]:
    """`(params, x [n,*E], t [n], text) -> velocity [n,*E]`, the same object each time.

    See `MMDiT`; `params` are those that `placed` gives.

    Raises:
        ValueError: if the type is neither float32 nor bfloat16.
    """
    return network_of(MMDiT, config, dtype=compute_type(dtype), remat=bool(remat))


def placed(params: PyTree, config: MMDiTConfig, height: int, width: int) -> PyTree:
    """The parameters for latents of a size: of the table of places the part in its middle.

    That of version 3.5 would take a gigabyte on the device.

    Args:
        params: of `load_mmdit`.
        config: what the network is made of.
        height: of latents.
        width: of latents.

    Raises:
        ValueError: if there are not that many places.
    """
    rows, columns, most = height // config.patch_size, width // config.patch_size, 0
    most = config.pos_embed_max_size
    if max(rows, columns) > most:
        raise ValueError(
            f"latents of {height}x{width} have {max(rows, columns)} patches side by side, but the "
            f"network has places for {most} (pos_embed_max_size): make pictures smaller"
        )
    top, left = (most - rows) // 2, (most - columns) // 2

    def cut(table: Array) -> Array:
        table = table.reshape(1, most, most, -1)
        return table[:, top : top + rows, left : left + columns]

    table = params["pos_embed"]["pos_embed"]
    part = jax.eval_shape(cut, table) if shapes_alone() else cut(table)
    return {**params, "pos_embed": {**params["pos_embed"], "pos_embed": part}}


def load_mmdit(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[MMDiTConfig, PyTree]:
    """Reads a transformer from a folder that `diffusers` wrote: `transformer/` of a pipeline.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`.
        dtype: float32 or bfloat16: what the weights become, normalisations and places apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    return load_network(folder, mmdit_config, MMDiT, dtype=dtype)
