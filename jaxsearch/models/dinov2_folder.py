"""DINOv2 from its published files: Meta's state dicts, and folders of `transformers`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import PyTree
from jaxsearch.models.dinov2 import Dinov2, Dinov2Config
from jaxsearch.models.folders import (
    OF_ANY_MODEL,
    check_entries,
    number,
    read_config,
    read_weights,
    rename,
    weights_path,
)
from jaxsearch.models.layers import Layers, compute_type
from jaxsearch.models.loading import abstract_module, abstract_network, loaded_once
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.position_grid import resize_places
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import Tensor, joined

IMAGE_SIZE = 224
"""Side of the images at which the published classifiers were trained and measured."""
_OFFSET = 0.1
_HEAD_SIZE = 64  # features of a head of attention in all four published networks


class LinearHead(NamedTuple):
    """A linear classifier of what `Dinov2.summary` gives."""

    params: PyTree
    layers: int  # of how many blocks it reads the class token
    num_classes: int


class LoadedDinov2(NamedTuple):
    """A DINOv2 as `load_dinov2` reads it."""

    config: Dinov2Config
    params: PyTree  # weights of `dinov2_network`
    head: LinearHead | None  # where the folder has one


@loaded_once
def load_dinov2(
    path: str | os.PathLike[str], *, image_size: int = IMAGE_SIZE, dtype: Any = jnp.float32
) -> LoadedDinov2:
    """Reads a DINOv2, with or without registers.

    Args:
        path: a folder that `transformers` wrote, such as `facebook/dinov2-base` or
            `facebook/dinov2-base-imagenet1k-1-layer`; or a file of Meta's, such as
            `dinov2_vitb14_pretrain.pth`.
        image_size: side of the images that it will be asked about, a multiple of the patches'. The
            position embedding is resized to it once, as the authors of the file's form do: see
            `resize_places`.
        dtype: float32 or bfloat16: what the weights become; normalisations, tokens and position
            embedding apart.

    Returns:
        What it is made of, and its weights on the default device: the same objects for as long as
        the files do not change.

    Raises:
        ValueError: if a file cannot be read, an entry of the config is not supported, or a tensor
            is missing, unknown or of another shape. The message names it.
    """
    path = Path(path)
    head = None
    if path.is_dir():
        source = weights_path(path, OF_TRANSFORMERS)
        trained = dinov2_config(read_config(path))
        tensors, rest = original_names(read_weights(path, OF_TRANSFORMERS))
        if rest:
            head = _linear_head(rest, trained.hidden_size, source)
        way: Literal["offset", "size"] = "size"
    else:
        source, tensors = path, read_state_dict(path)
        trained = config_of(tensors, path)
        way = "size" if trained.num_registers else "offset"
    settings = {name: getattr(trained, name) for name in trained.__dataclass_fields__}
    config = Dinov2Config(**{**settings, "image_size": image_size})
    places = tensors.get("pos_embed")
    shape = (1, 1 + trained.grid**2, trained.hidden_size)
    if places is not None:
        if places.shape != shape:
            raise ValueError(f"{source}: pos_embed is {places.shape} instead of {shape}")
        tensors["pos_embed"] = resize_places(
            np.asarray(places),
            config.grid,
            offset=_OFFSET if way == "offset" else None,
            # The networks with registers are resized as pictures are, by both.
            antialias=bool(trained.num_registers),
        )
    dtype = compute_type(dtype)
    module = abstract_network(Dinov2, config, dtype=dtype)
    return LoadedDinov2(config, load_state_dict(module, tensors, source=source), head)


@loaded_once
def load_dinov2_head(path: str | os.PathLike[str], *, hidden_size: int) -> LinearHead:
    """Reads one of Meta's linear classifiers, such as `dinov2_vitb14_linear_head.pth`.

    Args:
        path: the file: `weight` [classes, (layers + 1) * hidden_size] and `bias` [classes].
            `_linear_head` reads one block's class token, `_linear4_head` four.
        hidden_size: of the network that it was trained on.

    Raises:
        ValueError: if the file cannot be read or has another form. The message names it.
    """
    check_count("hidden_size", hidden_size)
    return _linear_head(read_state_dict(path), hidden_size, path)


def _linear_head(
    tensors: Mapping[str, Tensor], hidden_size: int, source: str | os.PathLike[str]
) -> LinearHead:
    shape = tensors["weight"].shape if "weight" in tensors else ()
    if len(shape) != 2 or shape[1] % hidden_size or shape[1] // hidden_size < 2:
        raise ValueError(
            f"{source}: weight is {shape}, but a linear classifier of {hidden_size} features has "
            f"[classes, {2 * hidden_size}] or [classes, {5 * hidden_size}]"
        )
    num_classes, width = shape
    module = abstract_module(lambda rngs: Layers(jnp.float32, rngs).linear(width, num_classes))
    params = load_state_dict(module, tensors, source=source)
    return LinearHead(params, width // hidden_size - 1, num_classes)


# ----------------------------------------------------------------------------------- Meta's files


def config_of(tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> Dinov2Config:
    """What the network of one of Meta's state dicts is made of, as its shapes say it.

    They do not say the number of heads: each has 64 features, as in all published networks. Nor do
    they say the epsilon of normalisations, which is 1e-6.

    Raises:
        ValueError: if a tensor that says it is missing or of another form. The message names it.
    """

    def shape(key: str, axes: int) -> tuple[int, ...]:
        if key not in tensors or tensors[key].ndim != axes:
            raise ValueError(f"{source} is no state dict of DINOv2: it has no {key} of {axes} axes")
        return tensors[key].shape

    hidden_size, num_channels, patch_size, _ = shape("patch_embed.proj.weight", 4)
    gated = "blocks.0.mlp.w12.weight" in tensors
    inner = (
        shape("blocks.0.mlp.w3.weight", 2)[1] if gated else shape("blocks.0.mlp.fc1.weight", 2)[0]
    )
    side = round((shape("pos_embed", 3)[1] - 1) ** 0.5)
    found = [re.match(r"blocks\.(\d+)\.", key) for key in tensors]
    if hidden_size % _HEAD_SIZE:
        raise ValueError(
            f"{source}: tokens have {hidden_size} features, which is no multiple of {_HEAD_SIZE}, "
            "those of a head: load a folder of transformers, whose config says the heads"
        )
    return Dinov2Config(
        image_size=side * patch_size,
        patch_size=patch_size,
        num_channels=num_channels,
        hidden_size=hidden_size,
        intermediate_size=inner,
        depth=1 + max(int(one[1]) for one in found if one),
        num_heads=hidden_size // _HEAD_SIZE,
        gated=gated,
        num_registers=shape("register_tokens", 3)[1] if "register_tokens" in tensors else 0,
        mask_token="mask_token" in tensors,
    )


# ------------------------------------------------------------------------- folders of transformers


_CLASSES = [
    [f"Dinov2{registers}{head}"]
    for registers in ("", "WithRegisters")
    for head in ("Model", "ForImageClassification")
]
_REGISTERS = "dinov2_with_registers"


def dinov2_config(entries: Mapping[str, Any]) -> Dinov2Config:
    """The config that `transformers` writes beside a DINOv2, as its `config.json` has it.

    Its `image_size` is that of training. What it leaves out has the default of `transformers`.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    has_registers = entries.get("model_type") == _REGISTERS
    check_entries(
        entries,
        needed=("model_type",),
        optional=(
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio"),
            *("layer_norm_eps", "image_size", "patch_size", "num_channels", "layerscale_value"),
            # Of training, and of what others take for features.
            *("attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate"),
            *("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states"),
            *("stage_names", "num_labels", *OF_ANY_MODEL),
            *(("num_register_tokens",) if has_registers else ()),
        ),
        fixed={
            "architectures": tuple(_CLASSES),
            "hidden_act": ("gelu",),
            "model_type": ("dinov2", _REGISTERS),
            "qkv_bias": (True,),
            "use_mask_token": (True, False),
            "use_swiglu_ffn": (True, False),
        },
    )
    hidden_size = entries.get("hidden_size", 768)
    check_count("the config's hidden_size", hidden_size)
    inner, gated = int(hidden_size * number(entries, "mlp_ratio", 4)), entries.get("use_swiglu_ffn")
    if gated:  # two thirds, up to a multiple of 8, so that there are as many weights as without
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
    return Dinov2Config(
        # The defaults of the two classes differ in one number.
        image_size=entries.get("image_size", 224),
        patch_size=entries.get("patch_size", 16 if has_registers else 14),
        num_channels=entries.get("num_channels", 3),
        hidden_size=hidden_size,
        intermediate_size=inner,
        depth=entries.get("num_hidden_layers", 12),
        num_heads=entries.get("num_attention_heads", 12),
        gated=bool(gated),
        num_registers=entries.get("num_register_tokens", 4) if has_registers else 0,
        norm_epsilon=number(entries, "layer_norm_eps", 1e-6),
        mask_token=entries.get("use_mask_token", True),
    )


_NAMES = {
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.": "",
    "encoder.layer.": "blocks.",
    "layernorm.": "norm.",
}
_NAMES_IN_A_BLOCK = {
    "attention.output.dense.": "attn.proj.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in.": "mlp.w12.",
    "mlp.weights_out.": "mlp.w3.",
}


def original_names(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict of `transformers` under the names of Meta's files, and its classifier's.

    Returns:
        The network's tensors, and those of the classifier as `weight` and `bias`; the latter is
        empty where there is none.

    Raises:
        ValueError: if two tensors come to have one name, or some of a block's query, key and value
            are missing.
    """
    rest = {key.removeprefix("classifier."): t for key, t in tensors.items() if _is_head(key)}
    network = rename({key: t for key, t in tensors.items() if not _is_head(key)}, _original)
    for key in [key for key in network if ".attention.query." in key]:
        parts = [key.replace(".query.", f".{one}.") for one in ("query", "key", "value")]
        missing = [part for part in parts if part not in network]
        if missing:
            raise ValueError(f"{missing[0]} is missing beside {key}")
        whole = key.replace(".attention.attention.query.", ".attn.qkv.")
        network[whole] = joined([network.pop(part) for part in parts])
    return network, rest


def _is_head(key: str) -> bool:
    return key.startswith("classifier.")


def _original(key: str) -> str:
    key = key.removeprefix("dinov2.").removeprefix(f"{_REGISTERS}.")
    for theirs, ours in _NAMES.items():
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
            break
    if key.startswith("blocks."):
        for theirs, ours in _NAMES_IN_A_BLOCK.items():
            key = key.replace(theirs, ours)
    return key
