"""Folders that published checkpoints are converted to.

config.json        what the network is; `family` says which module of `jaxsearch/zoo` reads it
model.safetensors  its weights, in PyTorch's layout, keys of the network's attributes
labels.txt         if it is there: the names of the classes, one a line
vae/               of a latent model: its autoencoder, as diffusers has it
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from jaxsearch.models.autoencoder_kl import load_autoencoder
from jaxsearch.models.configs import read_text
from jaxsearch.models.folders import weights_path
from jaxsearch.models.state_dict import check_state_dict
from jaxsearch.models.stored import Tensor


def write_converted(
    folder: str | os.PathLike[str],
    entries: Mapping[str, Any],
    module: nnx.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str | os.PathLike[str] = "the checkpoint",
    num_classes: int = 0,
    labels: Sequence[str] = (),
    autoencoder: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a checkpoint into a folder, after checking that all of it is there and fits.

    Args:
        folder: new or empty.
        entries: of `config.json`.
        module: what the tensors have to fit; abstract will do.
        tensors: key -> array, in PyTorch's layout.
        source: where the tensors are from, for messages.
        num_classes: how many labels there have to be, if there are any.
        labels: names of the classes.
        autoencoder: a folder of diffusers' to copy into `vae/`.

    Raises:
        ValueError: if the tensors are not those of the module, the autoencoder cannot be read,
            there are too many or too few labels, or the folder is not empty.
    """
    folder = Path(folder)
    if labels and len(labels) != num_classes:
        raise ValueError(f"there are {len(labels)} labels for {num_classes} classes")
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: take a new folder")
    check_state_dict(module, tensors, source=source)
    if autoencoder is not None:
        load_autoencoder(autoencoder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is complete, on the same file system.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        partial = Path(name) / "converted"
        partial.mkdir()
        whole = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        save_file(whole, partial / "model.safetensors")
        if labels:
            text = "".join(f"{label}\n" for label in labels)
            (partial / "labels.txt").write_text(text, encoding="utf-8")
        if autoencoder is not None:
            (partial / "vae").mkdir()
            for path in (Path(autoencoder) / "config.json", weights_path(autoencoder)):
                shutil.copy(path, partial / "vae")
        (partial / "config.json").write_text(json.dumps(entries, indent=2) + "\n")
        partial.replace(folder)


def read_labels(folder: Path, num_classes: int) -> list[str]:
    """The names of a folder's classes; none if it has none.

    Raises:
        ValueError: if there are too many or too few, or the file cannot be read.
    """
    path = folder / "labels.txt"
    names = read_text(path).splitlines() if path.exists() else []
    if names and len(names) != num_classes:
        raise ValueError(f"{path} has {len(names)} lines for {num_classes} classes")
    return names
