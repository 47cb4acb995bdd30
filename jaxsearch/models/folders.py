"""Folders of published weights as `diffusers` writes them: a config beside a safetensors file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsearch.models.configs import read_json
from jaxsearch.models.loading import read_safetensors
from jaxsearch.models.pickles import read_state_dict


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of a folder's `config.json`.

    Raises:
        ValueError: if it cannot be read, or holds no entries. The message names it.
    """
    return read_json(Path(folder) / "config.json")


class WeightsFile(NamedTuple):
    """How a part of a pipeline names its weights."""

    safe: str
    older: str  # in PyTorch's own format, where there is no other


OF_DIFFUSERS = WeightsFile("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
OF_TRANSFORMERS = WeightsFile("model.safetensors", "pytorch_model.bin")


def weights_path(folder: str | os.PathLike[str], names: WeightsFile = OF_DIFFUSERS) -> Path:
    """Where a folder has its weights: safetensors, or PyTorch's own format where there are none."""
    safe, older = Path(folder) / names.safe, Path(folder) / names.older
    return older if older.exists() and not safe.exists() else safe


def read_weights(
    folder: str | os.PathLike[str], names: WeightsFile = OF_DIFFUSERS
) -> dict[str, np.ndarray]:
    """The tensors of a folder by key.

    Raises:
        ValueError: if they cannot be read. The message names the file.
    """
    path = weights_path(folder, names)
    return read_state_dict(path) if path.suffix == ".bin" else read_safetensors(path)


def part_files(
    folder: str | os.PathLike[str], part: str, names: WeightsFile = OF_DIFFUSERS
) -> tuple[str, str]:
    """A part's config and weights, as a pipeline's folder names them: `unet/config.json`."""
    return f"{part}/config.json", f"{part}/{weights_path(Path(folder) / part, names).name}"


def check_entries(
    entries: Mapping[str, Any],
    *,
    needed: Collection[str],
    optional: Collection[str] = (),
    fixed: Mapping[str, tuple[Any, ...]],
) -> None:
    """Refuses a config that asks for something else than is computed here.

    Entries that begin with an underscore are the writer's own notes, except `_class_name`.

    Args:
        entries: of a config.
        needed: which there must be; whoever reads them checks their values.
        optional: which there may be.
        fixed: which there may be with one of these values only.

    Raises:
        ValueError: naming the first entry that is missing, unknown or of another value.
    """
    for name in needed:
        if name not in entries:
            raise ValueError(f"the config has no entry {name!r}")
    for name, value in entries.items():
        if name in fixed:
            if not any(type(value) is type(known) and value == known for known in fixed[name]):
                known = " or ".join(map(repr, fixed[name]))
                raise ValueError(f"the config's {name} is {value!r}: only {known} is supported")
        elif name not in needed and name not in optional and not name.startswith("_"):
            raise ValueError(f"the config's entry {name!r} (it is {value!r}) is not known")


def number(entries: Mapping[str, Any], name: str, absent: float) -> float:
    """An entry that is a number, or what stands for its absence.

    Raises:
        ValueError: if it is there and is none.
    """
    value = entries.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the config's {name} is {value!r}: it must be a number")
    return float(value)


def rename(tensors: Mapping[str, np.ndarray], name: Callable[[str], str]) -> dict[str, np.ndarray]:
    """The same tensors under other names.

    Raises:
        ValueError: if two come to have one name. The message says which.
    """
    renamed: dict[str, np.ndarray] = {}
    for key, tensor in tensors.items():
        if name(key) in renamed:
            raise ValueError(f"two tensors stand for {name(key)}; one of them is {key}")
        renamed[name(key)] = tensor
    return renamed
