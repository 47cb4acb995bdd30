"""Weights of DiT and SiT from files: the authors' own, folders of diffusers, and converted ones.

A converted folder has `config.json` (a `TransformerConfig`), `model.safetensors` (PyTorch's layout,
keys of the network's attributes) and the autoencoder of its latents in `vae/`, as diffusers has it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import PyTree
from jaxsearch.models.configs import from_json, read_json, to_json
from jaxsearch.models.dit import DiT, DiTConfig, position_embedding
from jaxsearch.models.folders import (
    check_entries,
    number,
    read_config,
    read_weights,
    rename,
    weights_path,
)
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_network
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import Tensor, joined, stored_safetensors

FAMILY = "dit"
"""What the entry `family` of a converted folder's config says."""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A diffusion transformer, and what it says.

    Attributes:
        network: what it is made of.
        kind: `"dit"`, which predicts noise, or `"sit"`.
        prediction: what SiT predicts: `"velocity"`, `"score"` or `"noise"`.
        path: the path that SiT was trained on: `"linear"` or `"gvp"`.
    """

    network: DiTConfig
    kind: Literal["dit", "sit"]
    prediction: Literal["velocity", "score", "noise"] = "velocity"
    path: Literal["linear", "gvp"] = "linear"

    @property
    def num_classes(self) -> int:
        """Labels that the network is told."""
        return self.network.num_classes

    def to_json(self) -> dict[str, Any]:
        """The entries of `config.json`."""
        return {"family": FAMILY, **to_json(self)}


PUBLISHED = {
    "dit-xl-2-256": TransformerConfig(DiTConfig(), "dit"),
    "dit-xl-2-512": TransformerConfig(DiTConfig(input_size=64), "dit"),
    "sit-xl-2-256": TransformerConfig(DiTConfig(), "sit"),
}
"""Configs of published state dicts, which carry none themselves."""


def read_transformer_config(path: str | os.PathLike[str]) -> TransformerConfig:
    """The config of a file such as a converted folder's `config.json`.

    Raises:
        ValueError: if it cannot be read, or an entry is missing, unknown or of another type.
    """
    raw = read_json(path)
    raw.pop("family", None)
    if not isinstance(raw.get("network"), dict):
        raise ValueError(f"{path} has no entries of a network: it is no config of DiT or SiT")
    network = from_json(DiTConfig, raw["network"], f"{path}, network")
    return from_json(TransformerConfig, raw | {"network": network}, path)


def load_converted(
    folder: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[TransformerConfig, PyTree]:
    """Reads a converted checkpoint; its autoencoder is for `load_autoencoder`.

    Args:
        folder: with `config.json` and `model.safetensors`.
        dtype: float32 or bfloat16: what the weights become.

    Returns:
        What it is, and its weights on the default device.

    Raises:
        ValueError: if a file cannot be read, or does not hold what the config says.
    """
    folder = Path(folder)
    config, path = read_transformer_config(folder / "config.json"), folder / "model.safetensors"
    module = abstract_dit(config.network, dtype)
    return config, load_state_dict(module, stored_safetensors(path), source=path)


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
    return load_state_dict(abstract_dit(config, dtype), tensors, source=path)


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
    params = load_state_dict(abstract_dit(config, dtype), tensors, source=weights_path(folder))
    return config, params


def abstract_dit(config: DiTConfig, dtype: Any = jnp.float32) -> DiT:
    """A network without weights: what a file of weights has to fit."""
    return abstract_network(DiT, config, dtype=compute_type(dtype))


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


def original_names(tensors: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
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
    shared: dict[str, Tensor] = {}
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
                shared[f"{block}.attn.qkv.{kind}"] = joined([left.pop(part) for part in parts])
    if "pos_embed.pos_embed" not in left:
        shared["pos_embed"] = position_embedding(config.grid, config.hidden_size)
    return rename({**shared, **left}, lambda key: names.get(key, key))


_KINDS = ("weight", "bias")


def _one_of(tensors: dict[str, Tensor], copies: list[str]) -> Tensor:
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
