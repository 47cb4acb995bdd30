"""EDM's networks from files: published checkpoints, and the folders they are converted to.

A folder (`models/converted.py`) has an `EdmConfig` in its `config.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.types import Array, Denoiser
from jaxsearch.models import adm, song
from jaxsearch.models.configs import from_json, read_json, to_json
from jaxsearch.models.edm import edm_denoiser, ve_denoiser, vp_denoiser
from jaxsearch.models.loading import abstract_module, functional
from jaxsearch.models.pickles import PickledNetwork, is_state_dict, read_network, read_state_dict
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.models.stored import stored_safetensors

FAMILY = "edm"
"""What the entry `family` of a folder's config says."""

_NETWORKS: dict[str, tuple[Any, Callable[..., Callable[[nnx.Rngs], nnx.Module]]]] = {
    "adm": (adm.AdmConfig, adm.build),
    "song": (song.SongConfig, song.build),
}


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """How the network becomes a denoiser (`models/edm.py`).

    Attributes:
        kind: whose: `"edm"`, `"vp"` or `"ve"`.
        sigma_data: of `edm_denoiser`, as is `noise_scale`.
        beta_d: of `vp_denoiser`, as are `beta_min` and `num_train_steps`.
    """

    kind: Literal["edm", "vp", "ve"] = "edm"
    sigma_data: float = 0.5
    noise_scale: float = 0.25
    beta_d: float = 19.9
    beta_min: float = 0.1
    num_train_steps: int = 1000


@dataclasses.dataclass(frozen=True)
class EdmConfig:
    """A network and its preconditioning."""

    network: adm.AdmConfig | song.SongConfig
    preconditioning: Preconditioning = Preconditioning()

    @property
    def kind(self) -> str:
        """`"adm"` or `"song"`."""
        return next(name for name, (cls, _) in _NETWORKS.items() if type(self.network) is cls)

    @property
    def num_classes(self) -> int:
        """Labels that the network is told; 0 for none."""
        return self.network.num_classes

    def to_json(self) -> dict[str, Any]:
        """The entries of `config.json`."""
        return {
            "family": FAMILY,
            "kind": self.kind,
            "network": to_json(self.network),
            "preconditioning": to_json(self.preconditioning),
        }


PUBLISHED = {
    # edm_imagenet64_ema.pt of github.com/openai/consistency_models.
    "openai-edm-imagenet64": EdmConfig(
        adm.AdmConfig(image_size=64, num_classes=1000), Preconditioning(noise_scale=250.0)
    ),
}
"""Configs of published state dicts, which carry none themselves."""


def read_config(path: str | os.PathLike[str]) -> EdmConfig:
    """The config of a file such as a folder's `config.json`.

    Raises:
        ValueError: if it cannot be read, or an entry is missing, unknown or of another type.
    """
    raw = read_json(path)
    for name in ("kind", "network", "preconditioning"):
        if name not in raw:
            raise ValueError(f"{path} has no entry {name!r}: it is no config of EDM's networks")
    if raw["kind"] not in _NETWORKS:
        raise ValueError(
            f"{path}: kind is {raw['kind']!r}, but there is only {' and '.join(_NETWORKS)}"
        )
    return EdmConfig(
        from_json(_NETWORKS[raw["kind"]][0], raw["network"], f"{path}, network"),
        from_json(Preconditioning, raw["preconditioning"], f"{path}, preconditioning"),
    )


# -------------------------------------------------------------------------------------- converting


def read_published(
    path: str | os.PathLike[str], config: EdmConfig | None = None, *, entry: str | None = None
) -> tuple[EdmConfig, dict[str, np.ndarray]]:
    """Reads a published checkpoint: one of EDM's pickles, or a state dict of ADM's keys (`.pt`).

    Args:
        path: the file. Nothing that it asks for is run (`models/pickles.py`).
        config: of a state dict, which carries none; None for a pickle, which does.
        entry: where in the file its weights are: of a state dict None says that they are all of it,
            of a pickle the one that is published, `"ema"`.

    Returns:
        The config, and tensors as a folder has them.

    Raises:
        ValueError: if the file cannot be read, holds another network, or carries a setting that is
            not known; if a config is missing or too many.
    """
    if is_state_dict(path):
        if config is None:
            raise ValueError(
                f"{path} holds weights only: say which network they are of, "
                f"{' or '.join(PUBLISHED)} or a config file"
            )
        return config, read_state_dict(path, name=entry)
    if config is not None:
        raise ValueError(
            f"{path} is no state dict that PyTorch saved; one of EDM's pickles carries its own "
            "config: leave the other one out"
        )
    network = read_network(path, name=entry or "ema")
    config = _config_of(network, path)
    tensors = {key.removeprefix("model."): value for key, value in network.tensors.items()}
    if isinstance(config.network, adm.AdmConfig):
        return config, adm.from_edm(tensors, config.network)
    return config, song.from_edm(tensors, config.network)


# Of training, of half precision on a GPU, or of which noise levels a sampler should visit.
_UNUSED = ("use_fp16", "sigma_min", "sigma_max", "epsilon_t", "dropout", "label_dropout")

# What EDM's classes are made with: their name of a setting, ours, and what they take without it.
_SHARED: dict[str, tuple[str, Any]] = {
    "img_resolution": ("image_size", None),
    "img_channels": ("in_channels", None),
    "label_dim": ("num_classes", 0),
}
_SETTINGS: dict[str, dict[str, tuple[str, Any]]] = {
    "DhariwalUNet": {
        **_SHARED,
        "model_channels": ("model_channels", 192),
        "channel_mult": ("channel_mult", (1, 2, 3, 4)),
        "num_blocks": ("num_res_blocks", 3),
        "attn_resolutions": ("attention_resolutions", (32, 16, 8)),
    },
    "SongUNet": {
        **_SHARED,
        "model_channels": ("model_channels", 128),
        "channel_mult": ("channel_mult", (1, 2, 2, 2)),
        "channel_mult_emb": ("embedding_mult", 4),
        "num_blocks": ("num_blocks", 4),
        "attn_resolutions": ("attention_resolutions", (16,)),
        "embedding_type": ("embedding", "positional"),
        "channel_mult_noise": ("noise_mult", 1),
        "encoder_type": ("encoder", "standard"),
        "resample_filter": ("resample_filter", (1, 1)),
    },
}
_PRECONDITIONINGS: dict[str, tuple[str, str, dict[str, tuple[str, Any]]]] = {
    "EDMPrecond": ("edm", "DhariwalUNet", {"sigma_data": ("sigma_data", 0.5)}),
    "VPPrecond": (
        "vp",
        "SongUNet",
        {
            "beta_d": ("beta_d", 19.9),
            "beta_min": ("beta_min", 0.1),
            "M": ("num_train_steps", 1000),
        },
    ),
    "VEPrecond": ("ve", "SongUNet", {}),
}


def _config_of(network: PickledNetwork, path: str | os.PathLike[str]) -> EdmConfig:
    """The config of a network as its pickle says what it was made with."""

    def refuse(what: str) -> ValueError:
        return ValueError(f"cannot convert {path}: {what}")

    if network.class_name not in _PRECONDITIONINGS:
        known = ", ".join(_PRECONDITIONINGS)
        raise refuse(f"its network is a {network.class_name}, which is none of {known}")
    if network.arguments:
        raise refuse("its network was made with arguments that have no names")
    kind, usual, interface = _PRECONDITIONINGS[network.class_name]
    given = dict(network.settings)
    architecture = given.get("model_type", usual)
    if architecture not in _SETTINGS:
        raise refuse(f"model_type is {architecture!r}, but only {', '.join(_SETTINGS)} is known")
    settings = _SETTINGS[architecture]
    # The only values that are built here.
    fixed = {"decoder_type": "standard"} if architecture == "SongUNet" else {"channel_mult_emb": 4}
    for name, only in fixed.items():
        if given.pop(name, only) != only:
            raise refuse(f"{name} is {network.settings[name]!r}: only {only!r} is known")
    for name in given:
        if name not in (*settings, *interface, *_UNUSED, "augment_dim", "model_type"):
            raise refuse(f"its network has a setting {name!r}, which is not known")

    def found(table: dict[str, tuple[str, Any]]) -> dict[str, Any]:
        values = {ours: given.get(theirs, usual) for theirs, (ours, usual) in table.items()}
        for name, value in values.items():
            if value is None:
                raise refuse(f"its network does not say its {name}")
        return values

    shape = found(settings)
    shape |= {"out_channels": shape["in_channels"]}
    if architecture == "DhariwalUNet":
        shape |= {"head_channels": 64, "min_group_channels": 4}
    cls = adm.AdmConfig if architecture == "DhariwalUNet" else song.SongConfig
    usual_values = to_json(Preconditioning()) | {"kind": kind}
    return EdmConfig(
        from_json(cls, shape, f"{path}, its network"),
        from_json(Preconditioning, usual_values | found(interface), f"{path}, its network"),
    )


# ----------------------------------------------------------------------------------------- loading


@functools.cache
def network(config: EdmConfig, dtype: str, remat: bool = False) -> Callable[..., Array]:
    """The network as a pure function `(params, x, t, label) -> F`."""
    return functional(_NETWORKS[config.kind][1](config.network, jnp.dtype(dtype), remat))


def abstract_network(config: EdmConfig, dtype: str = "float32") -> nnx.Module:
    """The network without weights: what a file of weights has to fit."""
    build = _NETWORKS[config.kind][1](config.network, jnp.dtype(dtype))
    return abstract_module(build)


def load_folder(
    folder: str | os.PathLike[str],
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> tuple[EdmConfig, Denoiser]:
    """Reads a converted checkpoint.

    Args:
        folder: with `config.json` and `model.safetensors`.
        dtype: of the weights and of what is computed with them; samples stay float32.
        remat: whether a gradient computes each block again instead of keeping what is inside it.

    Returns:
        The config and the denoiser, whose condition is the label [n] int32.

    Raises:
        ValueError: if a file cannot be read, or does not hold what the config says.
    """
    folder = Path(folder)
    config = read_config(folder / "config.json")
    path = folder / "model.safetensors"
    params = load_state_dict(abstract_network(config, dtype), stored_safetensors(path), source=path)
    side, own = config.network.image_size, config.preconditioning
    shape = (side, side, config.network.in_channels)
    apply = network(config, dtype, remat)
    if own.kind == "edm":
        denoiser = edm_denoiser(
            apply, params, shape=shape, sigma_data=own.sigma_data, noise_scale=own.noise_scale
        )
    elif own.kind == "vp":
        denoiser = vp_denoiser(
            apply, params, shape=shape, beta_d=own.beta_d, beta_min=own.beta_min,
            num_train_steps=own.num_train_steps,
        )  # fmt: skip
    else:
        denoiser = ve_denoiser(apply, params, shape=shape)
    return config, denoiser
