"""The pictures of a run made again from its recipes, and compared with those on disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxsearch.core.pixels import to_pixels
from jaxsearch.core.types import Noise
from jaxsearch.runs.arguments import resolve_file
from jaxsearch.runs.build import Built, build, files, make_again
from jaxsearch.runs.config import Config
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import read_json
from jaxsearch.runs.folder import RunFolder, changed_files, existing, make_empty, versions
from jaxsearch.runs.images import image_name, read_png, write_png
from jaxsearch.runs.recipes import read_recipes


class Comparison(NamedTuple):
    """How the pictures made again compare with those of the run."""

    identical: int
    differences: tuple[str, ...]  # a line for each picture that is not
    changed: tuple[str, ...]  # the files of model and verifiers that are not what they were


def replay_run(path: Path, output: Path | None) -> Comparison:
    """Makes the found pictures of a run again, from its config and recipes alone.

    Args:
        path: the run folder.
        output: where to write the pictures too; None does not.

    Raises:
        UserError: if the run is not finished, a file of it is damaged, or `output` is not an
            empty folder and cannot be made one.
    """
    folder = existing(path)
    if not folder.recipes.is_file():
        raise UserError(
            f"{path} has no recipes.jsonl: the run did not finish; go on with "
            f"`jaxsearch search --resume {path}`"
        )
    config = resolve_file(folder.config).config
    built = build(config)
    noise, legs = read_recipes(folder.recipes)
    _check_fit(noise, built, folder)
    if output is not None:
        make_empty(output, "a folder for pictures")
    images = to_pixels(make_again(built, noise, legs, config.microbatch).images)
    lines = [_difference(folder.images, index, image) for index, image in enumerate(images)]
    if output is not None:
        for index, image in enumerate(images):
            write_png(output / image_name("found", index), image)
    differences = tuple(line for line in lines if line is not None)
    return Comparison(lines.count(None), differences, _changed(config, folder))


def _changed(config: Config, folder: RunFolder) -> tuple[str, ...]:
    if not folder.versions.exists():
        return ()
    now = versions(files(config))
    return tuple(changed_files(read_json(folder.versions, "the versions"), now))


def _check_fit(noise: Noise, built: Built, folder: RunFolder) -> None:
    """Refuses recipes that were made for another config."""
    wanted = (built.prompts.ids.shape[0], built.problem.solver.num_steps + 1)
    found = noise.coefs.shape[:2]
    if wanted != found:
        raise UserError(
            f"{folder.recipes} does not fit {folder.config}: it holds {found[0]} recipes of "
            f"{found[1] - 1} steps, the config asks for {wanted[0]} of {wanted[1] - 1}"
        )
    shape = built.problem.denoiser.shape
    if noise.free is not None and noise.free.shape[2:] != shape:
        raise UserError(
            f"{folder.recipes} does not fit {folder.config}: its noises have the shape "
            f"{noise.free.shape[2:]}, those of the model {shape}"
        )


def _difference(images: Path, index: int, again: np.ndarray) -> str | None:
    """How a picture differs from that of the run; `None` if it does not."""
    name = image_name("found", index)
    try:
        before = read_png(images / name)
    except UserError as error:
        return str(error)
    if before.shape != again.shape:
        return f"{name} has the shape {before.shape}, made again it has {again.shape}"
    levels = np.abs(before.astype(int) - again)
    if not levels.any():
        return None
    changed = levels.any(axis=-1)
    share = f"{np.count_nonzero(changed)} of {changed.size} pixels"
    return f"{name} differs in {share}, by up to {levels.max()} of 255 levels"
