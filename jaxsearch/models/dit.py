"""The diffusion transformer DiT (Peebles & Xie 2023): network, weights and denoiser.

Attributes are named as the keys of the original files are: `blocks.0.attn.qkv`. `diffusers` has the
same weights under other names; `original_names` undoes that.

Reference: Peebles, Xie, *Scalable diffusion models with transformers*, 2023,
https://arxiv.org/abs/2212.09748.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.process import variance_preserving
from jaxsearch.core.types import Array, Denoiser, PyTree
from jaxsearch.models.attention import attention
from jaxsearch.models.embeddings import sinusoidal
from jaxsearch.models.epsilon import epsilon_denoiser
from jaxsearch.models.folders import (
    check_entries,
    number,
    read_config,
    read_weights,
    rename,
    weights_path,
)
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import functional
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.state_dict import load_state_dict

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
        counts = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")
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


def position_embedding(grid: int, features: int) -> np.ndarray:
    """Where each token of a square grid stands, [1, grid*grid, features] float32, rows first.

    The first half of the features says which column it is in and the second half which row, each by
    sines and then cosines of `position / 10000^(i / (features/4))`.
    """
    quarter = features // 4
    frequencies = _LONGEST_PERIOD ** -(np.arange(quarter) / quarter)
    angles = np.arange(grid)[:, None] * frequencies[None, :]
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # [grid, features/2]
    shape = (grid, grid, features // 2)
    column, row = np.broadcast_to(line[None, :], shape), np.broadcast_to(line[:, None], shape)
    both = np.concatenate([column, row], axis=2)
    return both.reshape(1, grid * grid, features).astype(np.float32)


def _normalise(x: Array, epsilon: float) -> Array:
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
        side = (config.patch_size, config.patch_size)
        self.proj = nnx.Conv(
            config.in_channels,
            config.hidden_size,
            side,
            strides=side,
            padding="VALID",
            dtype=make.dtype,
            param_dtype=make.dtype,
            rngs=make.rngs,
        )

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


class _Attention(nnx.Module):
    def __init__(self, config: DiTConfig, make: Layers) -> None:
        size, self.num_heads = config.hidden_size, config.num_heads
        self.qkv = make.linear(size, 3 * size)
        self.proj = make.linear(size, size)

    def __call__(self, x: Array) -> Array:
        num, tokens, size = x.shape
        heads = (num, tokens, 3, self.num_heads, size // self.num_heads)
        query, key, value = jnp.unstack(self.qkv(x).reshape(heads), axis=2)
        mixed = attention(query, key, value)
        return self.proj(mixed.reshape(x.shape))


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
        self.attn = _Attention(config, make)
        self.mlp = _Perceptron(config, make)
        self.adaLN_modulation = _modulation(config.hidden_size, 6, make)

    def __call__(self, x: Array, condition: Array) -> Array:
        modulation = _through(self.adaLN_modulation, condition).astype(jnp.float32)
        parts = jnp.split(modulation, 6, axis=1)
        for layer, epsilon, (shift, scale, gate) in (
            (self.attn, _EPSILON, parts[:3]),
            (self.mlp, self.epsilon, parts[3:]),
        ):
            change = layer(_modulate(_normalise(x, epsilon), shift, scale))
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
        return self.linear(_modulate(_normalise(x, _EPSILON), shift, scale))


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


# ----------------------------------------------------------------------------------------- weights


def load_dit(
    path: str | os.PathLike[str],
    config: DiTConfig,
    *,
    name: str | None = None,
    dtype: Any = jnp.float32,
) -> PyTree:
    """Reads the weights of DiT or SiT from a `.pt` as its authors publish it.

    Args:
        path: the file.
        config: what the network is made of; the file does not say.
        name: the entry that holds the weights, `"ema"` or `"model"`; None if they are all of it.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Raises:
        ValueError: if it cannot be read, or a tensor is missing, unknown or of another shape. The
            message names it.
    """
    tensors = read_state_dict(path, name=name)
    return load_state_dict(_abstract(config, dtype), tensors, source=path)


def load_dit_folder(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[DiTConfig, PyTree]:
    """Reads a DiT from a folder that `diffusers` wrote: `transformer/` of a pipeline.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`.
        dtype: float32 or bfloat16: what the weights become, those of normalisations apart.

    Returns:
        What it is made of, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    config = dit_config(read_config(folder))
    tensors = original_names(read_weights(folder), config)
    params = load_state_dict(_abstract(config, dtype), tensors, source=weights_path(folder))
    return config, params


def _abstract(config: DiTConfig, dtype: Any) -> DiT:
    return nnx.eval_shape(lambda: DiT(config, dtype=compute_type(dtype), rngs=nnx.Rngs(0)))


def dit_config(entries: Mapping[str, Any]) -> DiTConfig:
    """The config that `diffusers` writes beside a DiT, as its `config.json` has it.

    Early folders name the class `Transformer2DModel`, with entries for much that is no DiT.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    check_entries(
        entries,
        needed=(
            *("num_attention_heads", "attention_head_dim", "in_channels", "num_layers"),
            *("sample_size", "patch_size", "num_embeds_ada_norm"),
            *("activation_fn", "attention_bias", "norm_type"),
        ),
        # Neither of the latter two has a part in a DiT whose softmax is in float32 anyway.
        optional=("out_channels", "norm_eps", "norm_num_groups", "upcast_attention"),
        fixed={
            "_class_name": ("DiTTransformer2DModel", "Transformer2DModel"),
            "activation_fn": ("gelu-approximate",),
            "attention_bias": (True,),
            "norm_type": ("ada_norm_zero",),
            "norm_elementwise_affine": (False,),
            "dropout": (0.0, 0),
            "attention_type": ("default",),
            "caption_channels": (None,),
            "cross_attention_dim": (None,),
            "double_self_attention": (False,),
            "interpolation_scale": (None,),
            "num_vector_embeds": (None,),
            "only_cross_attention": (False,),
            "use_additional_conditions": (None, False),
            "use_linear_projection": (False,),
        },
    )
    for name in ("attention_head_dim", "num_attention_heads", "in_channels"):
        check_count(name, entries[name])
    inputs, outputs = entries["in_channels"], entries.get("out_channels")
    if outputs not in (None, inputs, 2 * inputs):
        raise ValueError(
            f"the config's out_channels is {outputs!r}: only in_channels, {inputs!r}, or twice as "
            "many are supported"
        )
    return DiTConfig(
        input_size=entries["sample_size"],
        patch_size=entries["patch_size"],
        in_channels=inputs,
        hidden_size=entries["num_attention_heads"] * entries["attention_head_dim"],
        depth=entries["num_layers"],
        num_heads=entries["num_attention_heads"],
        num_classes=entries["num_embeds_ada_norm"],
        learn_sigma=outputs == 2 * inputs,
        # Before there was the entry, that was what PyTorch takes where nothing is said.
        norm_epsilon=number(entries, "norm_eps", 1e-5),
    )


_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_INNER = {
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
    "norm1.linear": "adaLN_modulation.1",
}
_SHARED = {
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}


def original_names(tensors: Mapping[str, np.ndarray], config: DiTConfig) -> dict[str, np.ndarray]:
    """The tensors of a DiT that `diffusers` wrote, as the original files have them.

    `diffusers` divides query, key and value, leaves out the fixed embedding of positions, and has a
    copy of the embeddings of time and label in every block.

    Args:
        tensors: by `diffusers`' keys. What is none of them keeps its name, for `load_state_dict` to
            refuse.
        config: what the network is made of.

    Raises:
        ValueError: if the copies in two blocks differ, or some blocks have none.
    """
    left = dict(tensors)
    shared = {}
    names = {f"{old}.{kind}": f"{new}.{kind}" for old, new in _OUTER.items() for kind in _KINDS}
    names["pos_embed.pos_embed"] = "pos_embed"
    for old, new in _SHARED.items():
        for kind in _KINDS:
            copies = [f"transformer_blocks.{i}.{old}.{kind}" for i in range(config.depth)]
            if copies[0] in left:
                shared[f"{new}.{kind}"] = _one_of(left, copies)
    for i in range(config.depth):
        block, attention = f"blocks.{i}", f"transformer_blocks.{i}.attn1"
        for kind in _KINDS:
            for old, new in _INNER.items():
                names[f"transformer_blocks.{i}.{old}.{kind}"] = f"{block}.{new}.{kind}"
            parts = [f"{attention}.to_{part}.{kind}" for part in "qkv"]
            # What cannot be joined stays, under the name that it has in the file.
            if len({left[part].shape if part in left else part for part in parts}) == 1:
                joined = np.concatenate([left.pop(part) for part in parts])
                shared[f"{block}.attn.qkv.{kind}"] = joined
    if "pos_embed.pos_embed" not in left:
        shared["pos_embed"] = position_embedding(config.grid, config.hidden_size)
    return rename({**shared, **left}, lambda key: names.get(key, key))


_KINDS = ("weight", "bias")


def _one_of(tensors: dict[str, np.ndarray], copies: list[str]) -> np.ndarray:
    """Takes out the copies of a tensor and gives the first of them."""
    absent = [key for key in copies if key not in tensors]
    if absent:
        raise ValueError(f"{absent[0]} is missing, though other blocks have their copy of it")
    first, *others = (tensors.pop(key) for key in copies)
    for key, other in zip(copies[1:], others, strict=True):
        if not np.array_equal(first, other):
            raise ValueError(
                f"{key} differs from {copies[0]}: here all blocks share one embedding of time and "
                "one of labels"
            )
    return first
