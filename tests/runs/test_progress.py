"""Chunks of the right length, and what is shown."""

from __future__ import annotations

import io
import itertools

import jax
import numpy as np
import pytest
from rich.console import Console

from jaxsearch.core.process import edm, karras
from jaxsearch.core.search import search_in_chunks
from jaxsearch.runs import progress
from jaxsearch.searchers import epsilon_greedy
from jaxsearch.solvers import heun
from tests import toys
from tests.runs.small import ARGUMENTS, PROBLEM, SEARCHER


class Clock:
    """Stands for `time`: every round takes a given time, a compilation more."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize("per_round", [0.001, 0.03, 2.0])
def test_pace_finds_half_a_second(per_round: float) -> None:
    pace, lengths = progress.Pace(0.5), []
    for _ in range(12):
        rounds = pace()
        lengths.append(rounds)
        pace.learn(rounds, rounds * per_round)
    assert lengths[:2] == [1, min(4, max(1, int(0.5 / per_round + 1e-6)))]
    assert lengths[-1] == max(1, int(0.5 / per_round + 1e-6))
    assert pace.short == (per_round < 1.0)


def test_rounds_weigh_as_many_steps_as_they_take() -> None:
    problem = toys.problem(heun(karras(edm(), num_steps=6)))
    searcher = epsilon_greedy(candidates=2, iterations=3)
    weights = progress.round_weights(searcher, problem)
    active = problem.solver.active
    assert 0 < sum(active) < 6  # so that there are stages of both kinds
    assert weights.sum() == sum(2 * 3 if step else 1 for step in active)
    assert set(weights) == {2.0, *(float(run) for run in _passive_runs(active))}


def _passive_runs(active: tuple[bool, ...]) -> list[int]:
    return [len(list(run)) for searched, run in itertools.groupby(active) if not searched]


@pytest.mark.parametrize("quiet", [False, True])
def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    console = Console(file=io.StringIO(), width=200)
    weights = progress.round_weights(SEARCHER, PROBLEM)
    with progress.Reporter(console, weights, None, quiet=quiet) as report:
        for state in search_in_chunks(jax.random.key(0), *ARGUMENTS, rounds_per_chunk=1):
            report(state, 0.1)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    if quiet:
        assert lines == []
        return
    assert len(lines) == len(weights)
    best = float(np.mean(np.asarray(state.score)))
    assert f"round {len(weights)}/{len(weights)}  best {best:.3f}" in lines[-1]
    assert "passes/s" in lines[-1]
    assert "0:00 left" in lines[-1]
    rate = int(state.cost.network_passes.sum()) / len(weights) / 0.1
    assert f"  {rate:,.0f} passes/s  0:00 left" in lines[0]


def test_compile_clock_counts_what_is_covered_twice_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, compiling = Clock(), progress.CompileClock()
    monkeypatch.setattr(progress, "time", clock)
    for end, duration in ((3.0, 1.0), (4.0, 0.5), (5.0, 4.0), (9.0, 1.0), (9.5, 1.0)):
        clock.now = end
        compiling._listen("/jax/core/compile/backend_compile_duration", duration)
        compiling._listen("/jax/other", 100.0)
    assert compiling.seconds == pytest.approx(4.0 + 1.5)


def test_compile_clock_sees_a_compilation_and_only_that() -> None:
    program = jax.jit(lambda x: x * 2 + 1)
    with progress.CompileClock() as clock:
        program(np.float32(1))
    first = clock.seconds
    assert first > 0
    with progress.CompileClock() as clock:
        program(np.float32(2))
    assert clock.seconds == 0
