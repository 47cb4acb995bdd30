"""A run: plain samples, the search with its progress and checkpoints, and what is published."""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from jaxsearch.core.plan import num_particles
from jaxsearch.core.search import result_of
from jaxsearch.graders import Grader
from jaxsearch.parallel import divided, num_model_devices, replicated
from jaxsearch.runs.arguments import Execution
from jaxsearch.runs.build import Built, build, files, with_microbatch
from jaxsearch.runs.checkpoint import Checkpoints
from jaxsearch.runs.config import Config
from jaxsearch.runs.driving import Job, Program, StoppedError, drive, mesh_of
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import owned, read_json, remove_partial, write_atomic, write_json
from jaxsearch.runs.folder import RunFolder, check_versions, claim, existing, versions
from jaxsearch.runs.grading import (
    Grading,
    check_reachable,
    files_of_run,
    graders_of,
    share_account,
)
from jaxsearch.runs.interruption import Interruption, status_of
from jaxsearch.runs.progress import CompileClock, Reporter, round_weights
from jaxsearch.runs.publish import write_results

_LARGEST_REPLAY_DIFFERENCE = 1e-3


class RunInterruptedError(Exception):
    """The user stopped a run; it can go on from its folder."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(f"interrupted: go on with `jaxsearch search --resume {folder}`")
        self.status = status_of(number)
        """Of the process, by the signal that it got."""


def new_run(config: Config, path: Path, execution: Execution, console: Console) -> dict[str, Any]:
    """Carries out a run in a new folder and returns its summary.

    Raises:
        UserError: if the config makes no sense or the folder is taken; nothing is written then.
        RunInterruptedError: on Ctrl-C or SIGTERM, once the round under way is done and saved.
    """
    mesh = mesh_of(execution.devices, execution.model_devices)
    graders = graders_of(config)
    check_reachable(graders)
    built = build(config, mesh=mesh)
    folder = claim(path)
    with owned(path):
        claim(path)  # whoever came first has begun by now
        config, said = with_microbatch(config, built, mesh)
        if said:
            console.print(said, highlight=False)
        write_atomic(folder.config, config.to_yaml())
        write_json(folder.versions, versions(files(config)))
        return _carry_out(config, built, graders, folder, execution, console, mesh)


def resume_run(
    config: Config, path: Path, execution: Execution, console: Console
) -> dict[str, Any]:
    """Goes on with a run that was stopped, and returns its summary.

    Raises:
        UserError: if there is no such run, it is in use or its checkpoint is damaged.
        RunInterruptedError: on Ctrl-C or SIGTERM, once the round under way is done and saved.
    """
    folder, mesh = existing(path), mesh_of(execution.devices, execution.model_devices)
    with owned(path):
        if folder.summary.exists():
            summary = read_summary(folder)
            console.print(f"{path} is complete: nothing is left to do", highlight=False)
            return summary
        graders = graders_of(config)
        check_reachable(graders)
        remove_partial(path)
        check_versions(folder.versions, versions(files(config)), console)
        return _carry_out(
            config, build(config, mesh=mesh), graders, folder, execution, console, mesh
        )


def read_summary(folder: RunFolder) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        UserError: if the run is not finished, or the file is damaged.
    """
    summary = read_json(folder.summary, "the summary")
    needed = ("complete", "prompts", "scores", "cost_per_prompt", "plain_cost_per_prompt",
              "cost_total", "seconds")  # fmt: skip
    if missing := [key for key in needed if key not in summary]:
        raise UserError(f"{folder.summary} is damaged: it has no entry {missing[0]!r}")
    return summary


def _carry_out(
    config: Config,
    built: Built,
    graders: dict[str, Grader],
    folder: RunFolder,
    execution: Execution,
    console: Console,
    mesh: Mesh | None,
) -> dict[str, Any]:
    begun = time.monotonic()
    grading = None
    if graders:
        kept = files_of_run(folder)
        share_account(graders, kept.grades)
        grading = Grading(
            built, graders, kept, config.prompts, np.asarray(built.prompts.ids),
            fraction=config.grader_fraction, concurrency=execution.grader_concurrency,
        )  # fmt: skip
    with Interruption(console) as interruption, CompileClock() as clock:
        job = _search(config, built, grading, folder, execution, console, clock, interruption, mesh)
        config = _as_it_ran(config, job)
        if num_model_devices(mesh) > 1:
            built = job.built  # whose weights no device has whole
        result = result_of(job.reached)
        summary = write_results(config, built, folder, result, job.seconds, grading)
    total = time.monotonic() - begun
    seconds = {"search": job.seconds, "compile": clock.seconds, "total": total}
    summary["seconds"] = {key: round(value, 3) for key, value in seconds.items()}
    summary["rounds"] = job.rounds
    difference = summary["replay_difference"]
    if difference is None or difference > _LARGEST_REPLAY_DIFFERENCE:
        console.print(
            "warning: made again from their recipes, samples score differently from what the "
            f"search saw, by up to {difference}: see replay_difference in {folder.records}",
            highlight=False,
        )
    for name, account in summary.get("graders", {}).items():
        if account["failed"]:
            share = f"{account['failed']:,} of {account['questions']:,} questions to {name}"
            console.print(
                f"warning: {share} have failed, most often: {account['reason']}; "
                f"all are in {folder.grade_log}",
                highlight=False,
                markup=False,
            )
    write_json(folder.summary, {"complete": True, **summary})
    job.checkpoints.remove()
    return summary


def _search(
    config: Config,
    built: Built,
    grading: Grading | None,
    folder: RunFolder,
    execution: Execution,
    console: Console,
    clock: CompileClock,
    interruption: Interruption,
    mesh: Mesh | None,
) -> Job:
    """The search, finished."""
    problem, prompts = divided(built.problem, mesh), replicated(built.prompts, mesh)
    score = None
    if grading is not None and grading.guides:
        score = functools.partial(grading.score, problem, prompts)
    job = Job(
        built=built._replace(problem=problem),
        key=built.key,
        prompts=prompts,
        program=Program(config.microbatch, num_particles(built.searcher, problem, prompts)),
        checkpoints=Checkpoints(folder.checkpoint, execution.checkpoint_seconds),
        score=score,
    )
    job.restore()
    if job.state is not None:
        console.print(f"going on after round {job.rounds}", highlight=False)
    weights = round_weights(built.searcher, problem)
    note = None if grading is None or score is None else grading.note
    with Reporter(console, weights, job.state, quiet=execution.quiet, beside=note) as report:
        if grading is not None and score is not None:
            grading.progress = report.tick
        try:
            how: dict[str, Any] = {"mesh": mesh, "clock": clock, "interruption": interruption}
            for _, seconds in drive([job], console=console, **how):
                report(job.reached, seconds)
        except StoppedError as stopped:
            job.save()
            raise RunInterruptedError(folder.path, stopped.number) from None
        finally:
            if grading is not None:
                grading.progress = lambda: None
            if job.program.microbatch != config.microbatch:
                write_atomic(folder.config, _as_it_ran(config, job).to_yaml())
    return job


def _as_it_ran(config: Config, job: Job) -> Config:
    """The config with as many particles at once as there was memory for."""
    return dataclasses.replace(config, microbatch=job.program.microbatch)
