"""Base models that the command knows: by name, or by the folder of a checkpoint.

A named model joins by one module that defines `ENTRY` and by its line in `MODELS`. A family of
checkpoints joins by one module that defines `entry(folder)` and by its line in `FAMILIES`. Modules
are imported when a model of theirs is chosen, and weights are read by the entry's `load`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Hashable
from pathlib import Path

from jaxsearch.models.configs import read_json
from jaxsearch.models.placing import placement
from jaxsearch.zoo.hub import fetched, is_hub_id, pinned
from jaxsearch.zoo.model import Model, ModelEntry

MODELS = {
    "digits": "jaxsearch.zoo.digits.entry",
    "scenes": "jaxsearch.zoo.scenes.entry",
}
FAMILIES = {
    "DiTPipeline": "jaxsearch.zoo.dit",
    "FluxPipeline": "jaxsearch.zoo.flux",
    "PixArtSigmaPipeline": "jaxsearch.zoo.pixart_sigma",
    "StableDiffusion3Pipeline": "jaxsearch.zoo.stable_diffusion_3",
    "StableDiffusionPipeline": "jaxsearch.zoo.stable_diffusion",
    "StableDiffusionXLPipeline": "jaxsearch.zoo.stable_diffusion_xl",
    "dit": "jaxsearch.zoo.dit",
    "edm": "jaxsearch.zoo.edm",
}
"""By what a folder says of itself: `_class_name` in the `model_index.json` of a diffusers pipeline,
or `family` in the `config.json` of a converted checkpoint."""

_SAYING = {"model_index.json": "_class_name", "config.json": "family"}


def entry(name: str) -> ModelEntry:
    """The entry of a model of `MODELS`, or of a checkpoint: its folder, or its id on the hub.

    Raises:
        KeyError: if there is no such model.
        ValueError: if a checkpoint is not there, or of no family that is known.
    """
    if name in MODELS:
        return importlib.import_module(MODELS[name]).ENTRY
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(folder.resolve(), placement())
    if is_hub_id(name):
        return _of_folder(fetched(name), placement())
    if "/" in name:
        raise ValueError(f"there is no folder {name}")
    raise KeyError(name)


def located(name: str) -> str:
    """The name by which a model is found again: a folder's absolute path, an id with its commit.

    Raises:
        ValueError: if an id cannot be had from the hub.
    """
    if name in MODELS:
        return name
    if Path(name).is_dir():
        return str(Path(name).resolve())
    return pinned(name) if is_hub_id(name) else name


@functools.cache
def _of_folder(folder: Path, placement: Hashable) -> ModelEntry:
    # An entry keeps the weights that it has read, which are where they were then placed.
    del placement
    return importlib.import_module(FAMILIES[family_of(folder)]).entry(folder)


def family_of(folder: Path) -> str:
    """The family of the checkpoint in a folder.

    Raises:
        ValueError: if it holds none, or one that is not known.
    """
    for name, key in _SAYING.items():
        if (folder / name).exists():
            family = read_json(folder / name).get(key)
            if not isinstance(family, str) or family not in FAMILIES:
                raise ValueError(
                    f"{folder / name}: {key} is {family!r}, but there is only {', '.join(FAMILIES)}"
                )
            return family
    raise ValueError(
        f"{folder} holds no checkpoint: it has no {' and no '.join(_SAYING)}. Give the folder of a "
        "diffusers pipeline, or one that `jaxsearch convert` wrote"
    )


__all__ = ["FAMILIES", "MODELS", "Model", "ModelEntry", "entry", "family_of", "located"]
