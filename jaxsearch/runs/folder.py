"""The run folder: where its files are, and whose it may be."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from jaxsearch.models.digests import digest
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import read_json, write_json


class RunFolder(NamedTuple):
    """The files of a run; `summary.json` is written last and says that all are there."""

    path: Path

    @property
    def config(self) -> Path:
        """Everything that decides the result."""
        return self.path / "config.yaml"

    @property
    def versions(self) -> Path:
        """The software, the device, and what model and verifiers were read from."""
        return self.path / "versions.json"

    @property
    def checkpoint(self) -> Path:
        """The search between two rounds, while the run is under way."""
        return self.path / "checkpoint"

    @property
    def records(self) -> Path:
        """One line per prompt."""
        return self.path / "records.jsonl"

    @property
    def recipes(self) -> Path:
        """The winners' noise."""
        return self.path / "recipes.jsonl"

    @property
    def images(self) -> Path:
        """Single pictures."""
        return self.path / "images"

    @property
    def sheet(self) -> Path:
        """Plain samples beside found ones."""
        return self.path / "samples.png"

    @property
    def curve(self) -> Path:
        """Score against cost, as a picture; its numbers are in `curve.json`."""
        return self.path / "curve.png"

    @property
    def grades(self) -> Path:
        """What graders have said, so that they are not asked again (SQLite)."""
        return self.path / "grades.sqlite"

    @property
    def grade_log(self) -> Path:
        """One line for each answer and failure of a grader, in the order in which they came."""
        return self.path / "grades.jsonl"

    @property
    def summary(self) -> Path:
        """What came of it."""
        return self.path / "summary.json"


def claim(path: Path) -> RunFolder:
    """A new or empty folder for a run.

    Raises:
        UserError: if the folder holds anything or cannot be made.
    """
    folder = RunFolder(path)
    if folder.summary.exists():
        raise UserError(f"{path} holds a finished run: choose another --output")
    if folder.config.exists():
        raise UserError(
            f"{path} holds an unfinished run: go on with `jaxsearch search --resume {path}`, or "
            "choose another --output"
        )
    make_empty(path, "a run folder")
    return folder


def make_empty(path: Path, purpose: str) -> None:
    """Makes a folder, or takes one that is empty.

    Raises:
        UserError: if the folder holds anything or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        reason = (error.strerror or "it cannot be made").lower()
        raise UserError(f"cannot use {path} as {purpose}: {reason}") from error
    if occupied:
        raise UserError(f"{path} is not empty: choose another --output")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the name `path`, new or of an empty folder, once it is whole.

    Raises:
        UserError: if the folder holds anything or cannot be made.
    """
    there = path.exists()
    make_empty(path, "a folder for pictures")
    place = path.resolve()
    partial = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.parent))
    try:
        partial.chmod(0o755)
        yield partial
        place.rmdir()  # refuses where somebody has written meanwhile
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if not there:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def existing(path: Path) -> RunFolder:
    """The folder of a run that has begun.

    Raises:
        UserError: if it is none.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise UserError(f"{path} is no run folder: it has no config.yaml")
    return folder


def versions(files: Mapping[str, Path]) -> dict[str, Any]:
    """What the numbers of a run may depend on beyond its config.

    Args:
        files: what its model and verifiers are read from, by name.
    """
    packages = ("jaxsearch", "jax", "jaxlib", "flax", "numpy")
    device = jax.devices()[0]
    return {
        **{name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": platform.platform(),
        "files": {name: digest(path) for name, path in files.items()},
    }


def check_versions(path: Path, now: Mapping[str, Any], console: Console | None) -> None:
    """Compares what `versions` says now with what was noted in a file, and notes it if nothing was.

    Args:
        path: of the note.
        now: what `versions` says.
        console: where to warn that the software or the device is another one; None: nowhere.

    Raises:
        UserError: if a file of a model or verifier is another one.
    """
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path, "the versions")
    if others := changed_files(before, now):
        raise UserError(
            f"{others[0]} is not what it was when this run began: put the former file back, or "
            "begin a new run"
        )
    software = [name for name in now if name != "files"]
    changed = [f"{k} {before.get(k)} -> {now[k]}" for k in software if before.get(k) != now[k]]
    if added := {k: v for k, v in now["files"].items() if k not in before.get("files", {})}:
        write_json(path, {**before, "files": {**before.get("files", {}), **added}})
    if changed and console is not None:
        console.print(
            f"warning: this run began elsewhere ({', '.join(changed)}): results may differ from an "
            "undisturbed run",
            highlight=False,
        )


def changed_files(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Which files of model and verifiers are not what they were in a former note of `versions`."""
    former = before.get("files")
    if not isinstance(former, dict):  # a run of a version that took no note
        return []
    present = now["files"]
    return [name for name in former if former[name] != present.get(name)]
