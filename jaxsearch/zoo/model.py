"""What a base model is to the command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsearch.core.types import Decoder, Denoiser, Prompts, Verifier


class Model(NamedTuple):
    """A base model, ready to be searched."""

    denoiser: Denoiser
    decoder: Decoder
    prompts: Callable[[Sequence[str]], Prompts]
    """What was asked for [P], as the denoiser and the verifiers read it. Raises `ValueError` for a
    prompt that the model cannot take.
    """
    ids: Callable[[Sequence[str]], np.ndarray]
    """The ids [P] int32 that `prompts` gives, by themselves. An id says what is asked for and how
    often that was asked before, never the place in the list, so the result of a prompt is the same
    beside others. Raises as `prompts` does.
    """


class ModelEntry(NamedTuple):
    """What can be said of a base model before its weights are read."""

    load: Callable[..., Model]
    """Keyword-only typed settings with defaults; its docstring's first line describes the model."""
    verifiers: Mapping[str, Callable[..., Verifier]]
    """The model's own verifiers by name, each a factory with keyword-only typed settings."""
    defaults: Mapping[str, Any]
    """What a run takes where nothing else is asked for, in the form of a config file: `solver`,
    `schedule`, `guide`, `report` and `prompts` at least."""
    split: Callable[[str], list[str]] = lambda text: [text]
    """One argument of `--prompts` -> the prompts that it lists."""
    files: Mapping[str, Path] = {}
    """What the model is read from, by names that do not say where on the machine it is. A run notes
    what was in them, and does not go on with others."""
    fitted: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] = lambda settings: {}
    """Settings of the model -> what they change of `defaults`, by kind: a schedule may hang on the
    size of pictures. Raises `ValueError` for settings that the model cannot take."""


def files_in(folder: Path, *names: str) -> dict[str, Path]:
    """Those of the named files of a folder that are there, for `ModelEntry.files`."""
    return {name: folder / name for name in names if (folder / name).is_file()}
