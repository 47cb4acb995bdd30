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
from jaxsearch.zoo.hub import Kind, fetched, is_hub_id, pinned


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


def tokenizer_folder(tokenizer: str) -> Path:
    """Where a vocabulary is: a folder, or what the hub has of one under an id.

    Raises:
        ValueError: if it is not there.
    """
    return _place(tokenizer, "tokenizer")


@contextlib.contextmanager
def naming(source: Path) -> Iterator[None]:
    """Has errors say of which folder or file they are."""
    try:
        yield
    except ValueError as error:
        if str(source) in str(error):
            raise
        raise ValueError(f"{source}: {error}") from error


FILES = ("weights", "head", "label_map", "classes", "templates", "tokenizer")
"""The settings of published verifiers that say what they are read from."""

_READ = (".bin", ".json", ".safetensors", ".txt")  # of a folder


def located(setting: str, given: str) -> str:
    """The name by which a file or folder is found again: an absolute path, or an id's commit.

    Args:
        setting: of `FILES`.
        given: its value.

    Raises:
        ValueError: if it is not there.
    """
    if os.path.exists(given):
        return os.path.abspath(given)
    return pinned(given, _kind(setting)) if is_hub_id(given) else given


def files_of(setting: str, given: str) -> dict[str, Path]:
    """What is read of a file or folder, by names that do not say where on the machine it is.

    The arguments are those of `located`.

    Raises:
        ValueError: if it is not there.
    """
    place = _place(given, _kind(setting))
    found = sorted(place.iterdir()) if place.is_dir() else [place]
    return {path.name: path for path in found if place.is_file() or path.suffix in _READ}


def _kind(setting: str) -> Kind:
    """What of a repository of the hub a setting stands for."""
    return "tokenizer" if setting == "tokenizer" else "encoder"


def _place(given: str, kind: Kind = "encoder") -> Path:
    if os.path.exists(given):
        return Path(given)
    if is_hub_id(given):
        return fetched(given, kind)
    raise ValueError(f"there is no file or folder {given}")


@functools.cache
def preprocessing(wanted: resize.Preprocessing, path: resize.Path) -> Callable[[Array], Array]:
    """Images in [0, 1] as a network wants them: the same object for equal arguments."""
    return functools.partial(resize.preprocess, wanted=wanted, path=path)
