"""Searches driven one after the other: what is sent ahead, what happens when memory runs out."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxsearch.core.search import search
from jaxsearch.core.traced import traced
from jaxsearch.runs import driving
from jaxsearch.runs.build import Built
from jaxsearch.runs.checkpoint import Checkpoints
from jaxsearch.runs.driving import Job, Program, StoppedError, drive
from jaxsearch.runs.progress import CompileClock
from jaxsearch.searchers import zero_order
from tests.runs.small import PROBLEM, PROMPTS

ONE = traced(zero_order, neighbours=2, iterations=9)
BUILT = cast(Built, SimpleNamespace(searcher=ONE(), traced=ONE, problem=PROBLEM))
PARTICLES = 4


def jobs(folder: Path, program: Program, num: int) -> list[Job]:
    keys = [jax.random.key(seed) for seed in range(num)]
    return [
        Job(BUILT, key, PROMPTS, program, Checkpoints(folder / str(seed), 3600.0))
        for seed, key in enumerate(keys)
    ]


class Wanted:
    """Stands for a signal that comes after so many questions."""

    def __init__(self, after: int) -> None:
        self.left = after

    @property
    def wanted(self) -> int:
        self.left -= 1
        return 15 if self.left < 0 else 0


def driven(all_jobs: Any, console: Console, after: int = 10**9) -> list[tuple[int, int]]:
    """The index of the job and its rounds, for each chunk."""
    seen = []
    with CompileClock() as clock:
        signals = cast(Any, Wanted(after))
        for job, seconds in drive(
            all_jobs, mesh=None, clock=clock, interruption=signals, console=console
        ):
            assert seconds > 0
            seen.append((int(jax.random.key_data(job.key)[1]), job.rounds))
    return seen


def assert_found(job: Job, microbatch: int | None) -> None:
    wanted = search(job.key, BUILT.searcher, PROBLEM, PROMPTS, microbatch=microbatch)
    assert job.finished
    np.testing.assert_allclose(job.reached.score, wanted.score, rtol=1e-5)
    np.testing.assert_array_equal(job.reached.cost.network_passes, wanted.cost.network_passes)


def test_in_turn_and_to_the_end(tmp_path: Path) -> None:
    program, console = Program(None, PARTICLES), Console(file=io.StringIO())
    searches = jobs(tmp_path, program, 3)
    seen = driven(searches, console)
    assert [job for job, _ in seen] == sorted(job for job, _ in seen)
    for index, job in enumerate(searches):
        rounds = [rounds for which, rounds in seen if which == index]
        assert rounds == sorted(set(rounds))
        assert rounds[-1] == 9
        assert_found(job, None)
    # The pace that the first has found is that of the others.
    assert len([1 for job, _ in seen if job == 2]) < len([1 for job, _ in seen if job == 0])


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """Kills: a job that is lost, or searched twice; a chunk that counts though it has failed."""
    program, text = Program(None, PARTICLES), io.StringIO()
    real, calls = jax.block_until_ready, 0

    def full(state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= fails_at and (program.microbatch or PARTICLES) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: 1 TiB")
        return real(state)

    monkeypatch.setattr(driving.jax, "block_until_ready", full)
    searches = jobs(tmp_path, program, 3)
    seen = driven(iter(searches), Console(file=text, width=200))
    assert program.microbatch == 1
    assert text.getvalue().splitlines() == [
        f"out of memory with {before} particles at once: going on with {before // 2}; "
        f"--microbatch {before // 2} from the beginning saves the attempt"
        for before in (4, 2)
    ]
    assert len(seen) == len(set(seen))
    for job in searches:
        assert_found(job, 1)


def test_what_fails_when_it_is_sent_is_the_one_that_is_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: the job before blamed for one that cannot even be sent."""
    (small,) = jobs(tmp_path, Program(None, PARTICLES), 1)
    large = jobs(tmp_path, Program(None, PARTICLES), 2)[1]
    small.program.pace.learn(9, 1e-3)  # so that the other one is sent ahead
    large.program.pace.learn(9, 1e-3)
    real = driving.search_in_chunks

    def sending(key: Any, *rest: Any, **how: Any) -> Any:
        if key is large.key and (how["microbatch"] or PARTICLES) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: no room for the program")
        return real(key, *rest, **how)

    monkeypatch.setattr(driving, "search_in_chunks", sending)
    driven([small, large], Console(quiet=True))
    assert (small.program.microbatch, large.program.microbatch) == (None, 2)
    assert_found(small, None)
    assert_found(large, 2)


def test_not_even_one_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: 1 TiB")

    monkeypatch.setattr(driving.jax, "block_until_ready", full)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED: not even one particle fits"):
        driven(jobs(tmp_path, Program(3, PARTICLES), 1), Console(quiet=True))


def test_other_errors_are_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills: what goes wrong while a job is made taken for a job that was too large."""

    def failing(message: str) -> Any:
        yield jobs(tmp_path, Program(None, PARTICLES), 1)[0]
        raise RuntimeError(message)

    for message in ("RESOURCE_EXHAUSTED: weights", "something else"):
        with pytest.raises(RuntimeError, match=message):
            driven(failing(message), Console(quiet=True))


def test_a_signal_saves_the_search_under_way(tmp_path: Path) -> None:
    """Kills: a state that is lost, and one that is saved though its search is done."""
    program = Program(None, PARTICLES)
    searches = jobs(tmp_path, program, 2)
    with pytest.raises(StoppedError):
        driven(searches, Console(quiet=True), after=2)
    (first, second) = searches
    assert 0 < first.rounds < 9
    assert second.state is None
    again = jobs(tmp_path, program, 2)
    for job in again:
        job.restore()
    assert again[0].rounds == first.rounds
    assert again[1].state is None
    driven(again, Console(quiet=True))
    for job in again:
        assert_found(job, None)
