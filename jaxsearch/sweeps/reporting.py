"""What a person sees of a sweep: while it runs, and of its folder at any time."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from jaxsearch.runs.driving import Job
from jaxsearch.runs.files import read_json
from jaxsearch.runs.records import Mean, mean_of
from jaxsearch.sweeps.folder import Manifest, SweepFolder, is_at_work, read_log, read_manifest
from jaxsearch.sweeps.grid import Sweep, label
from jaxsearch.sweeps.records import read_table
from jaxsearch.sweeps.units import Unit, units_of

_LINE_SECONDS = 10.0  # between two lines where there is no terminal
_LOOK_SHARE = 0.02  # of the time, at most, is spent on looking at what other processes have done


class SweepReporter:
    """Shows units done by all processes, the newest score, network passes per second, time left.

    Args:
        console: where to.
        folder: of the sweep, where all processes leave their units.
        manifest: of the sweep.
        shown: whether to show anything: one process speaks for all.
    """

    def __init__(
        self, console: Console, folder: SweepFolder, manifest: Manifest, shown: bool
    ) -> None:
        self._console, self._folder, self._manifest, self._shown = console, folder, manifest, shown
        self._units = {unit.id: unit for unit in manifest.units}
        self._known = folder.done() & set(self._units)
        self._at_first = len(self._known)
        self._passes = 0.0
        self._begun = time.monotonic()
        self._look_at = self._last_line = self._begun
        self._live = shown and console.is_terminal
        self._progress = Progress(
            TextColumn("sweeping"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._progress.add_task("", total=len(self._units), note="compiling")

    def __enter__(self) -> SweepReporter:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def __call__(self, job: Job, seconds: float) -> None:
        """Shows the sweep when a chunk of a search of this process is done."""
        if not self._shown:
            return
        self._look()
        unit: Unit = job.about.unit
        varied = label(self._manifest.point_of(unit)["varied"])
        note = f"unit {len(self._known)}/{len(self._units)}  {self._rate()}"
        if not job.finished:
            note += f"  round {job.rounds}/{len(job.reached.trace.best)}"
        if varied:
            note += f"  {varied}"
        note += _score(np.asarray(job.reached.score)[: unit.prompts])
        self._progress.update(self._task, completed=len(self._known), note=note)
        if not self._live and time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"sweeping: {note}", highlight=False)

    def _look(self) -> None:
        begun = time.monotonic()
        if begun < self._look_at:
            return
        new = (self._folder.done() & set(self._units)) - self._known
        self._known |= new
        for name in new:
            self._passes += read_log(self._folder, name).get("network_passes", 0)
        now = time.monotonic()
        self._look_at = now + max(0.5, (now - begun) / _LOOK_SHARE)

    def _rate(self) -> str:
        """By what all processes have finished since this one began."""
        new, elapsed = len(self._known) - self._at_first, time.monotonic() - self._begun
        if not new:
            return "no unit done yet"
        left = int((len(self._units) - len(self._known)) * elapsed / new)
        text = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        return f"{self._passes / elapsed:,.0f} passes/s  {text} left"


def _score(scores: np.ndarray) -> str:
    finite = scores[np.isfinite(scores)]
    return f"  best {finite.mean():.3f}" if len(finite) else ""


_PASSES = ("network_passes", "backward_passes")


class Row(NamedTuple):
    """What is known of the points that differ in their seed alone."""

    label: str
    done: int
    units: int
    score: Mean  # over prompts and seeds
    network_passes: float  # per prompt, nan before the first
    seconds: float


class Status(NamedTuple):
    """How far a sweep has come."""

    done: int
    units: int
    begun: int  # units that are saved in the middle
    failures: dict[str, str]  # unit -> why
    at_work: bool
    rows: tuple[Row, ...]


def status_of_sweep(folder: SweepFolder) -> Status:
    """Reads the folder of a sweep, which may be at work.

    Raises:
        UserError: if it holds no sweep.
    """
    manifest, done = read_manifest(folder), folder.done()
    groups: dict[str, list[Unit]] = {}
    for unit in manifest.units:
        varied = manifest.point_of(unit)["varied"]
        groups.setdefault(label({k: v for k, v in varied.items() if k != "seed"}), []).append(unit)
    rows = tuple(_row(folder, name, units, done) for name, units in groups.items())
    failures = {}
    for unit in manifest.units:
        if unit.id not in done and folder.failure(unit.id).exists():
            failures[unit.id] = read_json(folder.failure(unit.id), "the failure").get("message", "")
    every = {unit.id for unit in manifest.units}
    begun = [name for name in every - done if folder.checkpoint(name).exists()]
    at_work = is_at_work(folder)
    return Status(len(every & done), len(every), len(begun), failures, at_work, rows)


def _row(folder: SweepFolder, name: str, units: Sequence[Unit], done: set[str]) -> Row:
    there = [unit for unit in units if unit.id in done]
    scores, passes, seconds, prompts = [], 0, 0.0, 0
    for unit in there:
        records = read_table(folder.records(unit.id), ("score", *_PASSES))
        scores.append(records["score"].to_numpy().astype(np.float64))
        passes += sum(int(np.sum(records[name].to_numpy())) for name in _PASSES)
        seconds += read_log(folder, unit.id).get("seconds", 0.0)
        prompts += unit.prompts
    mean = mean_of(np.concatenate(scores)) if scores else mean_of(np.zeros((0,)))
    each = max(prompts, 1)
    return Row(name, len(there), len(units), mean, passes / each, seconds / each)


def print_status(console: Console, status: Status, path: Path) -> None:
    """The table of a sweep."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("point")
    for column in ("units", "score (95 % interval)", "network passes", "seconds a prompt"):
        table.add_column(column, justify="right")
    for row in status.rows:
        table.add_row(
            row.label or "all",
            f"{row.done}/{row.units}",
            _interval(row.score),
            f"{row.network_passes:,.0f}" if row.done else "-",
            f"{row.seconds:.3g}" if row.done else "-",
        )
    console.print(table)
    how = "at work" if status.at_work else "not at work"
    if status.done == status.units:
        how = f"complete, in {path / 'records.parquet'}"
    console.print(
        f"\n{status.done} of {status.units} units done, {status.begun} saved in the middle, "
        f"{len(status.failures)} failed: {how}",
        highlight=False,
    )
    for name, message in list(status.failures.items())[:10]:
        console.print(f"unit {name}: {message}", highlight=False, markup=False, soft_wrap=True)


def _interval(mean: Mean) -> str:
    if np.isnan(mean.mean):
        return "-"
    half = (mean.high - mean.low) / 2
    return f"{mean.mean:.3f}" if np.isnan(half) else f"{mean.mean:.3f} ± {half:.3f}"


def print_points(console: Console, sweep: Sweep, path: Path) -> None:
    """What a sweep would search."""
    units = units_of(sweep)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("point")
    for column in ("prompts", "units"):
        table.add_column(column, justify="right")
    of_point = collections.Counter(unit.point for unit in units)
    for index, point in enumerate(sweep.points):
        table.add_row(label(point.varied) or "all", f"{len(point.config.prompts)}",
                      f"{of_point[index]}")  # fmt: skip
    console.print(table)
    every = {unit.id for unit in units}
    done = len(SweepFolder(path).done() & every)
    console.print(
        f"\n{len(sweep.points)} points, {len(every)} units, {done} of them done in {path}",
        highlight=False,
    )
