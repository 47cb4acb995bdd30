"""A sweep: the units of this process, searched one after the other and written down."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxsearch.core.evaluate import judge
from jaxsearch.core.plan import num_particles
from jaxsearch.core.search import result_of
from jaxsearch.core.types import Array, Cost, Prompts, SearchResult
from jaxsearch.graders import SpentError
from jaxsearch.parallel import divided, replicated
from jaxsearch.runs import components
from jaxsearch.runs.build import Built, build, files, with_budget, with_microbatch
from jaxsearch.runs.checkpoint import Checkpoints
from jaxsearch.runs.config import Config
from jaxsearch.runs.driving import (
    GiveUp,
    Job,
    Program,
    StoppedError,
    drive,
    mesh_of,
    out_of_memory,
)
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import write_json
from jaxsearch.runs.folder import check_versions, versions
from jaxsearch.runs.grading import Grading
from jaxsearch.runs.interruption import Interruption, status_of
from jaxsearch.runs.progress import CompileClock
from jaxsearch.sweeps.arguments import SweepRequest
from jaxsearch.sweeps.folder import Manifest, SweepFolder, manifest_of, working
from jaxsearch.sweeps.grid import Point, Sweep, program_of
from jaxsearch.sweeps.judges import Judges
from jaxsearch.sweeps.merging import merge
from jaxsearch.sweeps.records import Found, table_of, write_table
from jaxsearch.sweeps.reporting import SweepReporter
from jaxsearch.sweeps.units import Unit
from jaxsearch.sweeps.writing import Writer
from jaxsearch.zoo import Model
from jaxsearch.zoo.verifiers import Early, Prompted


class Share(NamedTuple):
    """Which process of a sweep this is."""

    process: int = 0
    processes: int = 1


class SweepOptions(NamedTuple):
    """How a sweep is carried out; none of it changes the result by more than rounding."""

    share: Share = Share()
    devices: int | None = None
    model_devices: int = 1
    checkpoint_seconds: float = 30.0
    quiet: bool = False
    grader_concurrency: int = 8


def options_of(request: SweepRequest) -> SweepOptions:
    """How the command line wants a sweep to be carried out."""
    share = Share(request.process or 0, request.processes or 1)
    return SweepOptions(
        share,
        request.devices,
        request.model_devices,
        request.checkpoint_seconds,
        request.quiet,
        request.grader_concurrency,
    )


class Task(NamedTuple):
    """What a job is about."""

    unit: Unit
    config: Config  # of its point, with the size that its budget pays for
    grading: Grading | None  # its graders, if it has any


class SweepInterruptedError(Exception):
    """A sweep was stopped; the same command goes on with it."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted: the same command goes on with the sweep")
        self.status = status_of(number)
        """Of the process, by the signal that it got."""


class Outcome(NamedTuple):
    """How far a sweep has come."""

    done: int
    units: int
    failures: tuple[str, ...]  # what was said of the units of this process that failed
    merged: bool


def run_sweep(sweep: Sweep, path: Path, options: SweepOptions, console: Console) -> Outcome:
    """Searches this process's share of the units of a sweep that are not done.

    Raises:
        UserError: if the folder is of another sweep, or in use; if a model's files have changed; if
            a grader's server is not there.
        SweepInterruptedError: on Ctrl-C or SIGTERM, once what is under way is saved.
    """
    mesh = mesh_of(options.devices, options.model_devices)
    folder, manifest = SweepFolder(path), manifest_of(sweep)
    judges, there = Judges(folder, options.grader_concurrency), folder.done()
    left = {unit.point for unit in manifest.units if unit.id not in there}
    judges.make(sweep.points[index].config for index in sorted(left))
    with working(folder, manifest, *options.share):
        first = options.share.process == 0
        check_versions(folder.versions, versions(_files(sweep)), console if first else None)
        done = folder.done()
        process, processes = options.share
        once = {unit.id: unit for unit in reversed(manifest.units)}  # the first point of each
        share = _in_order(sweep, list(once.values()))[process::processes]
        own = [unit for unit in share if unit.id not in done]
        judges.open()
        failures = _search(sweep, folder, manifest, own, options, console, mesh, judges)
        judges.say_failures(console)
        done = folder.done() & set(once)
        complete = len(done) == len(once)
        if complete:
            merge([folder])
    return Outcome(len(done), len(once), tuple(failures), complete)


def _files(sweep: Sweep) -> dict[str, Path]:
    """What models and verifiers are read from."""
    heavy = {program_of(point)[0]: point.config for point in sweep.points}
    found: dict[str, Path] = {}
    for config in heavy.values():
        for name, path in files(config).items():
            key = f"{config.model.name}/{name}"
            # A verifier may be there with several weights.
            found[key if found.get(key, path) == path else f"{key} of {path}"] = path
    return found


def _in_order(sweep: Sweep, units: Sequence[Unit]) -> list[Unit]:
    """Units of one program beside each other, and of those the ones with the same prompts."""

    programs = [program_of(point) for point in sweep.points]

    def key(unit: Unit) -> tuple[Any, ...]:
        return (*programs[unit.point], unit.begin, unit.point)

    return sorted(units, key=key)


def _search(
    sweep: Sweep,
    folder: SweepFolder,
    manifest: Manifest,
    own: Sequence[Unit],
    options: SweepOptions,
    console: Console,
    mesh: Mesh | None,
    judges: Judges,
) -> list[str]:
    """Searches units and writes down what they find; returns why some could not be searched."""
    failures: list[str] = []

    def fail(unit: Unit, message: str) -> None:
        failures.append(message)
        write_json(folder.failure(unit.id), {"message": message})

    shop = _Workshop(sweep, mesh, console)
    given_up: set[str] = set()

    def give_up(job: Job, message: str) -> None:
        unit = job.about.unit
        given_up.add(unit.id)
        fail(unit, message)
        job.save()

    def jobs() -> Iterator[Job]:
        for unit in own:
            try:
                built, prompts, config = shop.built(unit), shop.prompts(unit), shop.config(unit)
                grading = judges.of(unit, config, built, prompts)
            except UserError as error:
                fail(unit, str(error))
                continue
            score = None
            if grading is not None and grading.guides:
                score = judges.score(grading, config, built, prompts)
            key = jax.random.key(config.seed)
            job = Job(
                built=built,
                key=key,
                prompts=prompts,
                program=shop.program(unit),
                checkpoints=Checkpoints(folder.checkpoint(unit.id), options.checkpoint_seconds),
                about=Task(unit, config, grading),
                score=score,
            )
            try:
                job.restore()
            except UserError as error:
                console.print(f"unit {unit.id} begins again: {error}", highlight=False)
                job.checkpoints.remove()
            if job.state is not None:
                console.print(f"unit {unit.id} goes on after round {job.rounds}", highlight=False)
            yield job

    report = SweepReporter(console, folder, manifest, options.share[0] == 0 and not options.quiet)
    with Interruption(console) as interruption, CompileClock() as clock, report, Writer() as write:
        try:
            how: dict[str, Any] = {"mesh": mesh, "clock": clock, "interruption": interruption}
            how["give_up"] = give_up
            for job, seconds in drive(jobs(), console=console, **how):
                report(job, seconds)
                write.check()
                if job.about.unit.id in given_up:  # by a round behind this one
                    job.save()
                if job.finished:
                    write(_writing(sweep, folder, job, options.share, mesh, judges, give_up))
        except StoppedError as stopped:
            raise SweepInterruptedError(stopped.number) from None
    return failures


def _writing(
    sweep: Sweep,
    folder: SweepFolder,
    job: Job,
    share: Share,
    mesh: Mesh | None,
    judges: Judges,
    give_up: GiveUp,
) -> Callable[[], None]:
    """What is left to do of a unit that has been searched, for another thread."""
    (unit, config, grading), built, result = job.about, job.built, result_of(job.reached)
    microbatch = job.program.microbatch

    def look(most: int) -> tuple[Array, Array]:
        """Images and further scores; as few at once as have to be."""
        while True:
            try:
                return judge(
                    built.problem, built.reports, result.particle, job.prompts,
                    microbatch=most, mesh=mesh,
                )  # fmt: skip
            except RuntimeError as error:
                if not out_of_memory(error) or most == 1:
                    raise
                most = (most + 1) // 2

    most = min(microbatch or unit.rows, unit.rows)
    looked = look(most) if built.reports or "images" in sweep.keep else None

    def write() -> None:
        images, scores = np.zeros((0,)), np.asarray(result.scores)
        if looked is not None:
            try:
                images, further = (np.asarray(one) for one in looked)
            except RuntimeError as error:  # the device says it when it comes to it
                if not out_of_memory(error):
                    raise
                images, further = (np.asarray(one) for one in look(1))
            scores = np.concatenate([scores, further], axis=1)
        asked: dict[str, Any] = {}
        if grading is not None:
            try:
                grading.look_on(images[: unit.prompts], scores[: unit.prompts])
            except SpentError as error:
                give_up(job, judges.over(config, error))
                return
            asked = {"graders": grading.account()}
            judges.note(asked["graders"])
        found = Found(result, np.asarray(job.prompts.ids), images, scores)
        prompts, metadata = (
            values[unit.begin : unit.end] for values in (config.prompts, config.metadata)
        )
        table = table_of(unit, prompts, found, tuple(built.verifiers), sweep.keep, metadata)
        ran = {"microbatch": microbatch, "searcher": config.searcher.to_dict()}
        log = {**_log(unit, result, job.seconds, share), **ran, **asked}
        write_json(folder.log(unit.id), log)
        write_table(folder.records(unit.id), table)
        folder.failure(unit.id).unlink(missing_ok=True)
        job.checkpoints.remove()

    return write


def _log(unit: Unit, result: SearchResult, seconds: float, share: Share) -> dict[str, Any]:
    total = Cost(*(int(np.sum(np.asarray(field)[: unit.prompts])) for field in result.cost))
    score = np.asarray(result.score)[: unit.prompts]
    finite = score[np.isfinite(score)]
    return {
        "score": float(finite.mean()) if len(finite) else None,
        "network_passes": total.network_passes + total.backward_passes,
        "seconds": round(seconds, 4),
        "process": share.process,
        "device": f"{jax.local_devices()[0].device_kind}",
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


class _Workshop:
    """What units are searched with: weights are read once, and kept while units need them."""

    def __init__(self, sweep: Sweep, mesh: Mesh | None, console: Console) -> None:
        self._sweep, self._mesh, self._console = sweep, mesh, console
        self._programs = [program_of(point) for point in sweep.points]
        self._heavy = self._program = ""
        self._loaded: dict[str, Any] = {}
        self._built: dict[int, Built | UserError] = {}
        self._prompts: dict[tuple[Any, ...], Prompts] = {}
        self._sizes: dict[str, Config] = {}
        self._shared: Program | None = None
        self._before: Program | None = None

    def _load(
        self, kind: str, name: str, settings: Mapping[str, Any], model: str, *args: Any
    ) -> Any:
        if kind not in ("model", "verifier"):
            return components.build(kind, name, settings, model, *args)
        key = json.dumps([kind, name, settings, model], sort_keys=True)
        if key not in self._loaded:
            part = components.build(kind, name, settings, model, *args)
            self._loaded[key] = _on_all(part, self._mesh)
        return self._loaded[key]

    def _point(self, unit: Unit) -> Point:
        """The point of a unit; what only others needed is let go."""
        point = self._sweep.points[unit.point]
        heavy, program = self._programs[unit.point]
        if heavy != self._heavy:
            self._loaded.clear()
            self._prompts.clear()
        if (heavy, program) != (self._heavy, self._program):
            self._built.clear()
            self._before, self._shared = self._shared, None
        if heavy != self._heavy:
            self._before = None
        self._heavy, self._program = heavy, program
        return point

    def config(self, unit: Unit) -> Config:
        """The config of a unit's point, with the size that its budget pays for."""
        point = self._point(unit)
        if point.free is None:
            return point.config
        if self._program not in self._sizes:
            self._sizes[self._program] = with_budget(
                point.config, point.free, self._load, self._mesh
            )
        return dataclasses.replace(point.config, searcher=self._sizes[self._program].searcher)

    def built(self, unit: Unit) -> Built:
        """All that a unit needs but its key and its prompts.

        Raises:
            UserError: if its parts do not go together.
        """
        # The same object for equal prompts. Points that differ in their seed share all the rest.
        prompts = id(self._point(unit).config.prompts)
        if prompts not in self._built:
            try:
                built = build(
                    self.config(unit), most_prompts=unit.rows, load=self._load, mesh=self._mesh
                )
                self._built[prompts] = built
            except UserError as error:
                self._built[prompts] = error
        found = self._built[prompts]
        if isinstance(found, UserError):
            raise found
        return found

    def prompts(self, unit: Unit) -> Prompts:
        """The prompts of a unit [rows]: what is behind its last one repeats it.

        Where graders guide there is nothing behind it: they would be asked about it, too.

        Raises:
            UserError: if the model or a verifier cannot take one.
        """
        config = self._point(unit).config
        guided = any(part.name in config.graders for part in config.guide)
        rows = unit.prompts if guided else unit.rows
        key = (id(config.prompts), unit.begin, unit.end, rows)
        if key not in self._prompts:
            found = self.built(unit).part(unit.begin, unit.end)
            index = jnp.minimum(jnp.arange(rows), unit.prompts - 1)
            found = jax.tree.map(lambda leaf: leaf[index], found)
            while len(self._prompts) >= _PROMPTS_KEPT:
                del self._prompts[next(iter(self._prompts))]
            self._prompts[key] = replicated(found, self._mesh)
        return self._prompts[key]

    def program(self, unit: Unit) -> Program:
        """What units of the same program share."""
        built = self.built(unit)
        if self._shared is None:
            config, said = with_microbatch(self.config(unit), built, self._mesh)
            if said:
                self._console.print(said, highlight=False)
            particles = num_particles(built.searcher, built.problem, built.prompts)
            self._shared = Program(config.microbatch, particles)
            if self._before is not None and self._before.particles == particles:
                self._shared = self._before  # but for numbers it is the same
        return self._shared


_PROMPTS_KEPT = 8


def _on_all(part: Any, mesh: Mesh | None) -> Any:
    """A model or a verifier with its weights on the devices."""
    if isinstance(part, Model):
        denoiser, decoder = divided((part.denoiser, part.decoder), mesh)
        return part._replace(denoiser=denoiser, decoder=decoder)
    if isinstance(part, Prompted | Early):
        return part._replace(verifier=_on_all(part.verifier, mesh))
    return divided(part, mesh)
