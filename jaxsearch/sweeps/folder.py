"""The folder of a sweep: where its files are, what it consists of, and who works in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from jaxsearch.graders.budget import abandon
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.files import read_json, remove_partial, write_atomic
from jaxsearch.runs.folder import make_empty
from jaxsearch.sweeps.grid import Point, Sweep
from jaxsearch.sweeps.units import Unit, units_of


class SweepFolder(NamedTuple):
    """The files of a sweep."""

    path: Path

    @property
    def manifest(self) -> Path:
        """All points and units."""
        return self.path / "manifest.json"

    @property
    def versions(self) -> Path:
        """The software, and what models and verifiers were read from, by point."""
        return self.path / "versions.json"

    def records(self, unit: str) -> Path:
        """What a unit has found: it is done when this is there."""
        return self.path / "units" / f"{unit}.parquet"

    def log(self, unit: str) -> Path:
        """When, where and how fast a unit was searched."""
        return self.path / "logs" / f"{unit}.json"

    @property
    def grades(self) -> Path:
        """What graders have said, so that they are not asked again, and what that cost (SQLite)."""
        return self.path / "grades.sqlite"

    def grade_log(self, unit: str) -> Path:
        """One line for each answer and failure of a grader in a unit, as they came."""
        return self.path / "logs" / f"{unit}.grades.jsonl"

    def failure(self, unit: str) -> Path:
        """Why a unit could not be searched."""
        return self.path / "failures" / f"{unit}.json"

    def checkpoint(self, unit: str) -> Path:
        """A unit in the middle of its search."""
        return self.path / "checkpoints" / unit

    @property
    def merged(self) -> Path:
        """The records of all units."""
        return self.path / "records.parquet"

    @property
    def merged_units(self) -> Path:
        """A row for each unit: its settings, and what is in its log."""
        return self.path / "units.parquet"

    def done(self) -> set[str]:
        """The ids of the units that are done."""
        try:
            names = os.listdir(self.path / "units")
        except FileNotFoundError:
            return set()
        return {name.removesuffix(".parquet") for name in names if not name.startswith(".")}


class Manifest(NamedTuple):
    """What a sweep consists of, as its folder says it."""

    points: tuple[dict[str, Any], ...]  # `varied` and the resolved `config` without prompts
    units: tuple[Unit, ...]
    keep: tuple[str, ...]

    def point_of(self, unit: Unit) -> dict[str, Any]:
        """The point that a unit belongs to."""
        return self.points[unit.point]


def manifest_of(sweep: Sweep) -> Manifest:
    """What is written down of a sweep."""

    def point(one: Point) -> dict[str, Any]:
        config = {k: v for k, v in one.config.to_dict().items() if k != "prompts"}
        # Whether its records have a column of metadata.
        more = {"metadata": True} if one.config.metadata else {}
        return {"varied": one.varied, "config": config, **more}

    points = tuple(map(point, sweep.points))
    return Manifest(points, units_of(sweep), sweep.keep)


def _text(manifest: Manifest) -> str:
    """One line for each point and each unit, so that long sweeps can be looked at."""
    points = ",\n".join(json.dumps(point) for point in manifest.points)
    units = ",\n".join(json.dumps(unit) for unit in manifest.units)
    keep = json.dumps(manifest.keep)
    return f'{{"keep": {keep},\n"points": [\n{points}\n],\n"units": [\n{units}\n]}}\n'


def read_manifest(folder: SweepFolder) -> Manifest:
    """The manifest of a folder.

    Raises:
        UserError: if it holds no sweep, or the file is damaged.
    """
    if not folder.manifest.is_file():
        raise UserError(f"{folder.path} is no folder of a sweep: it has no manifest.json")
    content = read_json(folder.manifest, "the manifest")
    try:
        units = tuple(Unit(*unit) for unit in content["units"])
        manifest = Manifest(tuple(content["points"]), units, tuple(content["keep"]))
        for unit in units:
            manifest.point_of(unit)["varied"], manifest.point_of(unit)["config"]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder.manifest} is damaged: it is no manifest of a sweep") from error
    return manifest


def settle(folder: SweepFolder, manifest: Manifest) -> None:
    """Writes the manifest into its folder, new or of a sweep that this one goes on with.

    Raises:
        UserError: if the folder holds units that this sweep does not have.
    """
    if not folder.manifest.exists():
        write_atomic(folder.manifest, _text(manifest))
        return
    before = read_manifest(folder)
    if before == manifest:
        return
    wanted = {unit.id for unit in manifest.units}
    lost = [unit for unit in before.units if unit.id not in wanted]
    if lost or before.keep != manifest.keep:
        what = f"{len(lost)} units that the file does not ask for any more" if lost else "records"
        kept = "" if lost else f" that keep {', '.join(before.keep) or 'nothing'}"
        raise UserError(
            f"{folder.path} holds {what}{kept}: take --output for another folder, or the file as "
            "it was; seeds and settings may be added, and prompts behind units that are full"
        )
    write_atomic(folder.manifest, _text(manifest))


_LOCKS = "locks"


@contextlib.contextmanager
def working(
    folder: SweepFolder, manifest: Manifest, process: int, processes: int
) -> Iterator[None]:
    """Makes the folder, and has this process work in it as one of several of the same sweep.

    The system lets go of a process's locks when it ends, however that happens.

    Raises:
        UserError: if another sweep is at work there, or this process is already.
    """
    locks = folder.path / _LOCKS
    if not locks.exists():
        try:
            make_empty(folder.path, "the folder of a sweep")
        except UserError:
            if not locks.exists():  # another process of this sweep has just begun
                raise
        locks.mkdir(exist_ok=True)
    with contextlib.ExitStack() as held:
        alive = held.enter_context((locks / "alive").open("a+"))
        own = held.enter_context((locks / f"process_{process}").open("a"))
        with (locks / "door").open("a") as door:
            _lock(door, wait=True)
            alone = _lock(alive)
            digest = hashlib.sha256(_text(manifest).encode()).hexdigest()
            team = f"{processes} processes, manifest {digest}"
            if alone is not False:  # None: nobody can tell who else is there
                settle(folder, manifest)
                with explained(str(folder.grades)):
                    abandon(folder.grades)
            if alone:
                remove_partial(folder.path)
                for unit in folder.done():
                    shutil.rmtree(folder.checkpoint(unit), ignore_errors=True)
                alive.truncate(0)
                alive.write(team)
                alive.flush()
            elif alone is False:
                alive.seek(0)
                if alive.read() != team:
                    raise UserError(f"{folder.path} is in use: another sweep is at work there")
            if _lock(own) is False:
                raise UserError(
                    f"{folder.path} is in use: process {process} of this sweep is at work there"
                )
            _lock(alive, shared=True)
        yield


def _lock(file: IO[str], *, wait: bool = False, shared: bool = False) -> bool | None:
    """Whether a lock could be had; None where files cannot be locked."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait or shared else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def is_at_work(folder: SweepFolder) -> bool:
    """Whether a process is at work in the folder."""
    locks = folder.path / _LOCKS
    if not (locks / "alive").exists():
        return False
    with (locks / "door").open() as door, (locks / "alive").open() as alive:
        _lock(door, wait=True)  # so that none that begins just now takes this for a sweep
        return _lock(alive) is False


def read_log(folder: SweepFolder, unit: str) -> Mapping[str, Any]:
    """The log of a unit; nothing where there is none that can be read."""
    try:
        return json.loads(folder.log(unit).read_text())
    except (OSError, ValueError):
        return {}
