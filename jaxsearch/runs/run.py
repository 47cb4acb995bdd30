"""A run: plain samples, the search with its progress and checkpoints, and what is published."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxsearch.core.search import result_of, search_in_chunks, start
from jaxsearch.core.types import SearchState
from jaxsearch.parallel import particle_mesh, replicated
from jaxsearch.runs.arguments import Execution
from jaxsearch.runs.build import Built, build, files
from jaxsearch.runs.checkpoint import Checkpoints
from jaxsearch.runs.config import Config
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.files import owned, read_json, remove_partial, write_atomic, write_json
from jaxsearch.runs.folder import RunFolder, changed_files, claim, existing, versions
from jaxsearch.runs.interruption import Interruption, status_of
from jaxsearch.runs.progress import CompileClock, Pace, Reporter, round_weights
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
    mesh = _mesh(execution)
    built = build(config)
    folder = claim(path)
    with owned(path):
        claim(path)  # whoever came first has begun by now
        write_atomic(folder.config, config.to_yaml())
        write_json(folder.versions, versions(files(config)))
        return _carry_out(config, built, folder, execution, console, mesh)


def resume_run(
    config: Config, path: Path, execution: Execution, console: Console
) -> dict[str, Any]:
    """Goes on with a run that was stopped, and returns its summary.

    Raises:
        UserError: if there is no such run, it is in use or its checkpoint is damaged.
        RunInterruptedError: on Ctrl-C or SIGTERM, once the round under way is done and saved.
    """
    folder, mesh = existing(path), _mesh(execution)
    with owned(path):
        if folder.summary.exists():
            summary = read_summary(folder)
            console.print(f"{path} is complete: nothing is left to do", highlight=False)
            return summary
        remove_partial(path)
        _check_versions(config, folder, console)
        return _carry_out(config, build(config), folder, execution, console, mesh)


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


def _check_versions(config: Config, folder: RunFolder, console: Console) -> None:
    """Warns where the software or the device is another one; refuses another model."""
    now = versions(files(config))
    if not folder.versions.exists():  # stopped before it was written
        write_json(folder.versions, now)
        return
    before = read_json(folder.versions, "the versions")
    if others := changed_files(before, now):
        raise UserError(
            f"{others[0]} is not what it was when this run began: put the former file back, or "
            "begin a new run"
        )
    software = [name for name in now if name != "files"]
    changed = [f"{k} {before.get(k)} -> {now[k]}" for k in software if before.get(k) != now[k]]
    if changed:
        console.print(
            f"warning: this run began elsewhere ({', '.join(changed)}): results may differ from an "
            "undisturbed run",
            highlight=False,
        )


def _mesh(execution: Execution) -> Mesh | None:
    with explained("devices"):
        return particle_mesh(execution.devices)


def _carry_out(
    config: Config,
    built: Built,
    folder: RunFolder,
    execution: Execution,
    console: Console,
    mesh: Mesh | None,
) -> dict[str, Any]:
    begun = time.monotonic()
    with Interruption(console) as interruption, CompileClock() as clock:
        state, searching, checkpoints = _search(
            config, built, folder, execution, console, clock, interruption, mesh
        )
        summary = write_results(config, built, folder, result_of(state), searching)
    total = time.monotonic() - begun
    seconds = {"search": searching, "compile": clock.seconds, "total": total}
    summary["seconds"] = {key: round(value, 3) for key, value in seconds.items()}
    summary["rounds"] = int(state.round)
    difference = summary["replay_difference"]
    if difference is None or difference > _LARGEST_REPLAY_DIFFERENCE:
        console.print(
            "warning: made again from their recipes, samples score differently from what the "
            f"search saw, by up to {difference}: see replay_difference in {folder.records}",
            highlight=False,
        )
    write_json(folder.summary, {"complete": True, **summary})
    checkpoints.remove()
    return summary


def _search(
    config: Config,
    built: Built,
    folder: RunFolder,
    execution: Execution,
    console: Console,
    clock: CompileClock,
    interruption: Interruption,
    mesh: Mesh | None,
) -> tuple[SearchState, float, Checkpoints]:
    """The last state, the seconds of searching without compiling, and the checkpoints."""
    key, searcher = built.key, built.searcher
    problem, prompts = replicated((built.problem, built.prompts), mesh)
    shapes = jax.eval_shape(lambda k: start(k, searcher, problem, prompts), key)
    checkpoints = Checkpoints(folder.checkpoint, shapes, key, execution.checkpoint_seconds)
    restored = checkpoints.restore()
    state, seconds = restored if restored is not None else (None, 0.0)
    if state is not None:
        console.print(f"going on after round {int(state.round)}", highlight=False)
    pace, done = Pace(clock), 0 if state is None else int(state.round)
    begun = time.monotonic() - clock.seconds - seconds

    def spent() -> float:
        return time.monotonic() - clock.seconds - begun

    chunks = search_in_chunks(
        key, built.traced, problem, prompts,
        rounds_per_chunk=pace, state=state, microbatch=config.microbatch, mesh=mesh,
    )  # fmt: skip
    weights = round_weights(searcher, problem)
    with Reporter(console, weights, state, quiet=execution.quiet) as report:
        try:
            for state in chunks:
                jax.block_until_ready(state)
                report(state, pace.done(int(state.round) - done))
                done = int(state.round)
                if interruption.wanted:
                    checkpoints.save(state, spent())
                    raise RunInterruptedError(folder.path, interruption.wanted)
                checkpoints.offer(state, spent())
        finally:
            checkpoints.wait()
    assert state is not None  # a search has at least one round, so at least one state
    return state, spent(), checkpoints
