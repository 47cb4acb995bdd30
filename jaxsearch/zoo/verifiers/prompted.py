"""What published verifiers are made of: folders of weights, and words that become embeddings."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsearch.core.types import Array, Verifier
from jaxsearch.verifiers import resize
from jaxsearch.zoo.hub import fetched, is_hub_id, pinned


class Prompted(NamedTuple):
    """A verifier that reads prompts."""

    verifier: Verifier
    context: Callable[[Sequence[str]], dict[str, Array]]
    """The prompts' words [P] -> entries of their context [P, ...], made once before a search."""


class Early(NamedTuple):
    """A verifier that reads the clean estimate which the sampler had at a noise level."""

    verifier: Verifier
    level: float
    """Noise-to-signal ratio, for `keep_estimate`."""


def checkpoint(verifier: str, weights: str, published: str) -> Path:
    """Where the weights of a verifier are: a file, a folder, or what the hub has under an id.

    Args:
        verifier: its name, for messages.
        weights: what the user gave.
        published: what could be given, for messages.

    Raises:
        ValueError: if nothing was given, or it is not there.
    """
    if not weights:
        raise ValueError(
            f"{verifier} comes without weights: give those of {published} by "
            f"--verifiers.{verifier}.weights"
        )
    return _place(weights)


@contextlib.contextmanager
def naming(source: Path) -> Iterator[None]:
    """Has errors say of which folder or file they are."""
    try:
        yield
    except ValueError as error:
        if str(source) in str(error):
            raise
        raise ValueError(f"{source}: {error}") from error


FILES = ("weights", "head", "label_map", "classes", "templates")
"""The settings of published verifiers that say what they are read from."""

_READ = (".bin", ".json", ".safetensors", ".txt")  # of a folder


def located(weights: str) -> str:
    """The name by which weights are found again: an absolute path, or an id with its commit.

    Raises:
        ValueError: if they are not there.
    """
    if os.path.exists(weights):
        return os.path.abspath(weights)
    return pinned(weights, "encoder") if is_hub_id(weights) else weights


def files_of(weights: str) -> dict[str, Path]:
    """What weights are read from, by names that do not say where on the machine they are.

    Raises:
        ValueError: if they are not there.
    """
    place = _place(weights)
    found = sorted(place.iterdir()) if place.is_dir() else [place]
    return {path.name: path for path in found if place.is_file() or path.suffix in _READ}


def _place(weights: str) -> Path:
    if os.path.exists(weights):
        return Path(weights)
    if is_hub_id(weights):
        return fetched(weights, "encoder")
    raise ValueError(f"there is no file or folder {weights}")


@functools.cache
def preprocessing(wanted: resize.Preprocessing, path: resize.Path) -> Callable[[Array], Array]:
    """Images in [0, 1] as a network wants them: the same object for equal arguments."""
    return functools.partial(resize.preprocess, wanted=wanted, path=path)
