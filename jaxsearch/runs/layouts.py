"""The folders of pictures that the evaluators of benchmarks read."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsearch.runs.errors import UserError
from jaxsearch.runs.prompt_files import Prompt

_LONGEST_NAME = 255  # bytes of a file's name, on most file systems


class Layout(NamedTuple):
    """Where everything goes in a folder."""

    pictures: tuple[Path, ...]  # [S] of the samples, in their order
    texts: dict[Path, str]  # further files


def geneval(samples: Sequence[Prompt]) -> Layout:
    """A folder for each prompt, with its metadata and its samples.

    Folders are numbered by where their prompts come first. GenEval's evaluator takes all pictures
    of a folder with the record in it (Ghosh, Hajishirzi & Schmidt, "GenEval: An object-focused
    framework for evaluating text-to-image alignment", 2023).

    Args:
        samples: [S] what each was asked for.

    Raises:
        UserError: if one has no record of GenEval's.
    """
    folders: dict[str, int] = {}
    counts: collections.Counter[str] = collections.Counter()
    pictures = []
    for text, metadata in samples:
        if missing := [key for key in ("tag", "prompt") if key not in (metadata or {})]:
            raise UserError(
                f"the prompt {text!r} has no {missing[0]!r} of GenEval: search with "
                "--prompts @evaluation_metadata.jsonl, GenEval's own file"
            )
        record = json.dumps(metadata)
        folder = folders.setdefault(record, len(folders))
        pictures.append(Path(f"{folder:05d}", "samples", f"{counts[record]:04d}.png"))
        counts[record] += 1
    texts = {
        Path(f"{folder:05d}", "metadata.jsonl"): f"{record}\n" for record, folder in folders.items()
    }
    return Layout(tuple(pictures), texts)


def t2i_compbench(samples: Sequence[Prompt]) -> Layout:
    """One folder `samples` of pictures that are named by their prompt and a number.

    The samples of a prompt are numbered one after the other, and prompts by where they come first,
    as T2I-CompBench's evaluators count on (Huang et al., "T2I-CompBench: A comprehensive benchmark
    for open-world compositional text-to-image generation", 2023).

    Args:
        samples: [S] what each was asked for.

    Raises:
        UserError: if a prompt cannot be read from such a name.
    """
    places: dict[str, list[int]] = {}
    for place, (text, _) in enumerate(samples):
        places.setdefault(text, []).append(place)
    pictures: dict[int, Path] = {}
    for text, own in places.items():
        for place in own:
            pictures[place] = Path("samples", _named(text, len(pictures)))
    return Layout(tuple(pictures[place] for place in range(len(samples))), {})


def _named(text: str, number: int) -> str:
    """The name of a file that evaluators take apart again, at its first underscore."""
    name = f"{text}_{number:06d}.png"
    for part in ("_", "/", "\0", ".png"):
        if part in text:
            raise UserError(
                f"the prompt {text!r} has {part!r} in it, and T2I-CompBench's evaluators read "
                "prompts from names of files, where that cannot stand: search without it"
            )
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise UserError(
            f"the prompt {text[:40] + '...'!r} is too long for the name of a file, from which "
            f"T2I-CompBench's evaluators read it: {len(os.fsencode(name))} bytes of at most "
            f"{_LONGEST_NAME}"
        )
    return name


LAYOUTS: dict[str, Callable[[Sequence[Prompt]], Layout]] = {
    "geneval": geneval,
    "t2i-compbench": t2i_compbench,
}
"""By the name of the benchmark."""


def write_layout(folder: Path, layout: Layout, pictures: Iterable[bytes]) -> None:
    """Writes the pictures [S], byte for byte, and the further files.

    Args:
        folder: where to, which holds none of them.
        layout: of the samples.
        pictures: PNGs in the order of the samples.
    """
    for path, text in layout.texts.items():
        _write(folder / path, text.encode())
    for path, content in zip(layout.pictures, pictures, strict=True):
        _write(folder / path, content)


def _write(path: Path, content: bytes) -> None:
    # No temporary name: a long prompt leaves no room for it. The folder as a whole has one.
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def described(samples: Sequence[Prompt]) -> str:
    """How many prompts there are, and how many samples of each."""
    counts = collections.Counter(one.text for one in samples).values()
    fewest, most = min(counts), max(counts)
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{len(counts)} prompts, {number} samples of each"
