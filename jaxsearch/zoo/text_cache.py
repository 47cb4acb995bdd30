"""What encoders have made of texts, kept on disk: a second run of a prompt needs no encoder.

One safetensors file for each text, named by the SHA-256 of all that it hangs on. What is damaged is
made again, and what cannot be written is made again next time; both with a warning.

JAXSEARCH_TEXT_CACHE       the folder, or `off`; without it `texts` in the user's cache folder of
                           jaxsearch ($XDG_CACHE_HOME/jaxsearch, or ~/.cache/jaxsearch)
JAXSEARCH_TEXT_CACHE_GIB   how much it holds, 10 without it: what was not asked for longest goes
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxsearch.core.types import PyTree
from jaxsearch.models.digests import digest
from jaxsearch.models.loading import save_safetensors

FOLDER = "JAXSEARCH_TEXT_CACHE"
GIB = "JAXSEARCH_TEXT_CACHE_GIB"
OFF = "off"

_FORMAT = 1
_MOST_GIB = 10.0
_ENDING = ".safetensors"
_CHECK = "crc32"
_ABANDONED = 24 * 3600
"""Seconds after which a file that is half written is nobody's."""


class TextCache:
    """The files of one encoder.

    Args:
        files: what it is read from: its config and its weights.
        program: what is computed, as compilers are told it: whichever setting, version of this
            package or precision changes what is made of a text, it changes this.
        placed: where its weights are; sums of parts round otherwise than whole ones.

    Raises:
        ValueError: if a variable of the environment has a value that it cannot have, or when used,
            if a file of the encoder cannot be read.
    """

    def __init__(self, files: Sequence[Path], program: str, placed: str) -> None:
        self._files, self._program, self._placed = tuple(files), program, placed
        _limit()  # what is wrong there is said before anything is encoded

    @functools.cached_property
    def _encoder(self) -> bytes:
        device = jax.devices()[0]
        try:
            digests = {path.name: digest(path) for path in self._files}
        except OSError as error:
            raise ValueError(f"cannot read weights from {error.filename}: {error}") from error
        facts = {
            "format": _FORMAT,
            "program": self._program,
            "files": digests,
            # With others the last bits would not be those that are made here.
            "jax": jax.__version__,
            "device": f"{device.platform} {device.device_kind}",
            "placed": self._placed,
        }
        return json.dumps(facts, sort_keys=True).encode()

    def _path(self, folder: Path, row: Sequence[np.ndarray]) -> Path:
        """The file of a text, by what the encoder reads of it."""
        name = hashlib.sha256(self._encoder)
        for part in row:
            name.update(f"{part.dtype}{part.shape}".encode())
            name.update(np.ascontiguousarray(part).tobytes())
        return folder / f"{name.hexdigest()}{_ENDING}"

    def read(self, row: Sequence[np.ndarray], like: PyTree) -> PyTree | None:
        """What was made of a text; None if nothing is kept, or it is damaged.

        Args:
            row: what the encoder reads of the text.
            like: the shapes of what it makes of it.
        """
        folder = folder_of_texts()
        # To `os.path` what may not be looked at is not there.
        if folder is None or not os.path.exists(path := self._path(folder, row)):
            return None
        try:
            with safe_open(path, "numpy") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                noted = (file.metadata() or {}).get(_CHECK)
        except FileNotFoundError:  # somebody has just made room
            return None
        except (OSError, SafetensorError, ValueError) as error:
            _warn(path, str(error))
            return None
        wanted, structure = jax.tree.flatten(like)
        leaves = [found.get(str(number)) for number in range(len(wanted))]
        fits = len(found) == len(wanted) and all(
            leaf is not None and leaf.shape == one.shape and leaf.dtype == one.dtype
            for leaf, one in zip(leaves, wanted, strict=True)
        )
        if not fits or noted != _checksum(found):
            _warn(path, "it does not hold what was written")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was asked for
        return jax.tree.unflatten(structure, leaves)

    def write(self, rows: Sequence[Sequence[np.ndarray]], made: Sequence[PyTree]) -> None:
        """Keeps what was made of texts; what cannot be written is said, and nothing else happens.

        Args:
            rows: what the encoder reads of each.
            made: what it makes of each.
        """
        folder = folder_of_texts()
        if folder is None or not made:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for row, one in zip(rows, made, strict=True):
                leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(one))}
                # As a whole or not at all: a reader of another process may be there.
                note = {_CHECK: _checksum(leaves)}
                save_safetensors(leaves, self._path(folder, row), metadata=note)
            _make_room(folder, int(_limit() * 2**30))
        except (OSError, SafetensorError) as error:  # the latter of a disk that is full
            reason = getattr(error, "strerror", None) or error
            warnings.warn(
                f"what was made of texts cannot be kept in {folder} ({reason}): "
                f"they are encoded again next time; {FOLDER} names another folder, or is {OFF}",
                stacklevel=2,
            )


def folder_of_texts() -> Path | None:
    """Where texts are kept; None where they are not."""
    given = os.environ.get(FOLDER, "")
    if given:
        return None if given == OFF else Path(os.path.expanduser(given))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "jaxsearch" / "texts"


def _limit() -> float:
    """GiB that the folder may hold.

    Raises:
        ValueError: if the variable is no such number.
    """
    given = os.environ.get(GIB, "")
    try:
        limit = float(given) if given else _MOST_GIB
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"{GIB} is {given!r}: it must be a number of GiB, 0 or more")
    return limit


def _make_room(folder: Path, limit: int) -> None:
    """Removes what was not asked for longest until the rest fits, and what writers left behind."""
    kept = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if path.name.startswith(".") and _ENDING in path.name:
                if time.time() - stat.st_mtime > _ABANDONED:
                    path.unlink()
            elif path.suffix == _ENDING:
                kept.append((stat.st_mtime_ns, stat.st_size, path))
    held = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if held <= limit:
            break
        path.unlink(missing_ok=True)
        held -= size


def _warn(path: Path, reason: str) -> None:
    warnings.warn(f"{path} is damaged ({reason}): its text is encoded again", stacklevel=3)


def _checksum(leaves: Mapping[str, np.ndarray]) -> str:
    found = 0
    for key in sorted(leaves):
        found = zlib.crc32(np.ascontiguousarray(leaves[key]).tobytes(), found)
    return f"{found:08x}"
