"""Where populations of images are read from: runs, folders, arrays in files, names."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from jaxsearch.core.pixels import to_pixels
from jaxsearch.metrics.moments import Statistics
from jaxsearch.runs.config import read_resolved
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.folder import RunFolder
from jaxsearch.runs.images import image_name
from jaxsearch.runs.records import read_lines
from jaxsearch.zoo.references import REFERENCES

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ROWS = 64  # images of an array that are read at once
_OF_A_RUN = ("found", "plain")

Images = Callable[[], Iterator[np.ndarray]]
"""Begins to read images: [b,h,w,c] uint8 each, of 1 or 3 channels."""


class Source(NamedTuple):
    """A population, as far as it is known before any network has seen it."""

    name: str  # of its column
    number: int | None = None
    images: Images | None = None
    prompts: np.ndarray | None = None  # [n] equal for samples of one prompt
    statistics: Statistics | None = None  # of Inception's features, from a file
    spatial: Statistics | None = None


def sources(path: Path) -> list[Source]:
    """The populations of a run (found and plain), of a folder of pictures or of an `.npz`.

    Raises:
        UserError: if there are none, or a file cannot be read.
    """
    if path.suffix == ".npz":
        return [_of_arrays(path)]
    if RunFolder(path).config.is_file():
        return _of_run(RunFolder(path))
    if path.is_dir():
        return [_of_folder(path)]
    raise UserError(f"{path} is no run folder, no folder of pictures and no .npz")


def references(given: str, most: int | None) -> list[Source]:
    """What images are compared with, and, of a name, real images beside it.

    Args:
        given: a path or a name.
        most: real images beside it; figures hang on their number. None: as many as there are.

    Raises:
        UserError: if there is no such reference, or it cannot be read.
    """
    if given in REFERENCES:
        with explained(given):
            real = REFERENCES[given]()
        both = (("reference", real.images), ("real", real.beside[:most]))
        return [Source(name, len(x), _in_memory(to_pixels(x))) for name, x in both]
    path = Path(given)
    if not path.exists():
        raise UserError(
            f"there is no reference {given}: give a run, a folder of pictures, an .npz, or "
            f"{' or '.join(REFERENCES)}"
        )
    return [sources(path)[0]._replace(name="reference")]


def model_of(path: Path) -> str | None:
    """The model whose run this is; None of what is no run."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        return None
    return read_resolved(folder.config).model.name


def _in_memory(images: np.ndarray) -> Images:
    return lambda: iter([images])


# --------------------------------------------------------------------------------------- pictures


def _of_run(folder: RunFolder) -> list[Source]:
    if not folder.summary.is_file():
        raise UserError(
            f"{folder.path} did not finish: go on with `jaxsearch search --resume {folder.path}`"
        )
    prompts = np.array([str(line.get("prompt")) for line in read_lines(folder.records, "records")])

    def of_kind(kind: str) -> Source:
        paths = [folder.images / image_name(kind, index) for index in range(len(prompts))]
        return Source(kind, len(prompts), _read(paths), prompts)

    return [of_kind(kind) for kind in _OF_A_RUN]


def _of_folder(path: Path) -> Source:
    found = sorted(one for one in path.rglob("*") if one.suffix.lower() in _PICTURES)
    if not found:
        raise UserError(f"{path} has no pictures: they end in {', '.join(_PICTURES)}")
    return Source(path.name or str(path), len(found), _read(found))


def _read(paths: Sequence[Path]) -> Images:
    def images() -> Iterator[np.ndarray]:
        first: tuple[int, ...] | None = None
        for path in paths:
            pixels = _picture(path)
            first = first or pixels.shape
            if pixels.shape != first:
                raise UserError(
                    f"{path} has {_size(pixels.shape)}, {paths[0]} {_size(first)}: make all "
                    "pictures of one size first"
                )
            yield pixels[None]

    return images


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]} pixels"


def _picture(path: Path) -> np.ndarray:
    """Pixels [h, w, 3] uint8 of a file."""
    try:
        with Image.open(path) as picture:
            if picture.mode[0] in "IF":
                raise UserError(f"{path} has more than 8 bits a level: convert it to 8 bits first")
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # the latter of a wrong checksum
        raise UserError(f"cannot read the picture {path}: it is missing or damaged") from error


# ----------------------------------------------------------------------------------------- arrays


def _of_arrays(path: Path) -> Source:
    """An `.npz`: images as ADM's samples have them, statistics as ADM and pytorch-fid write them.

    `arr_0` are images [n,h,w,3] uint8 and `arr_1`, where there is one, their labels [n]; `mu`,
    `sigma` and `mu_s`, `sigma_s` are means and covariances of features and of spatial features.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        number, images = _array_images(path) if "arr_0" in names else (None, None)
        with np.load(path, allow_pickle=False) as arrays:
            statistics = _statistics(path, arrays, names, "mu", "sigma")
            spatial = _statistics(path, arrays, names, "mu_s", "sigma_s")
            prompts = arrays["arr_1"] if "arr_1" in names and images is not None else None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: it is missing, damaged or no .npz") from error
    if images is None and statistics is None:
        listed = ", ".join(sorted(names)) or "nothing"
        raise UserError(f"{path} holds {listed}: it must hold arr_0 (images), or mu and sigma")
    if prompts is not None and prompts.shape != (number,):
        prompts = None
    return Source(path.stem, number, images, prompts, statistics, spatial)


def _statistics(
    path: Path, arrays: np.lib.npyio.NpzFile, names: Iterable[str], mean: str, covariance: str
) -> Statistics | None:
    if mean not in names or covariance not in names:
        return None
    centre, spread = (np.asarray(arrays[key], np.float64) for key in (mean, covariance))
    found = Statistics(centre, spread)
    with explained(str(path)):
        found.check(str(path))
    return found


class _Header(NamedTuple):
    """What an array's file says of it."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def _header_of(file: IO[bytes]) -> _Header:
    """Reads it; what follows in the file are the numbers."""
    if np.lib.format.read_magic(file) == (1, 0):
        return _Header(*np.lib.format.read_array_header_1_0(file))
    return _Header(*np.lib.format.read_array_header_2_0(file))


def _array_images(path: Path) -> tuple[int, Images]:
    """The images of `arr_0`, read from the file a few at a time: 50 000 need not fit in memory."""
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        shape, fortran, dtype = _header_of(file)
    if len(shape) != 4 or shape[-1] not in (1, 3) or dtype != np.uint8 or fortran:
        raise UserError(
            f"{path}: arr_0 has the shape {shape} and the type {dtype}: it must be images "
            "[n,h,w,c] uint8 with c = 1 or 3"
        )

    def images() -> Iterator[np.ndarray]:
        size = int(np.prod(shape[1:]))
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
            _header_of(file)
            for begin in range(0, shape[0], _ROWS):
                rows = min(_ROWS, shape[0] - begin)
                content = file.read(rows * size)
                if len(content) != rows * size:
                    raise UserError(f"{path} is damaged: arr_0 ends before its last image")
                yield np.frombuffer(content, np.uint8).reshape(rows, *shape[1:])

    return shape[0], images
