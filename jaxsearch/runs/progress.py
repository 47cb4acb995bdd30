"""What a person sees while a search runs, and the clocks behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxsearch.core.plan import stage_plans
from jaxsearch.core.space import stages_of
from jaxsearch.core.types import Problem, Searcher, SearchState

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class CompileClock:
    """Adds up the seconds that JAX spends on making programs, while it is entered.

    JAX says of each phase, when it ends, how long it was; phases lie within each other, and what is
    covered twice counts once.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []  # apart from each other, in order

    @property
    def seconds(self) -> float:
        """Until now."""
        return sum(end - begin for begin, end in self._spans)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if not event.startswith("/jax/core/compile/"):
            return
        end = time.monotonic()
        begin = end - duration_secs
        while self._spans and self._spans[-1][1] > begin:
            begin = min(begin, self._spans.pop()[0])
        self._spans.append((begin, end))

    def __enter__(self) -> CompileClock:
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


class Pace:
    """Chooses the rounds of a chunk so that one takes about `seconds`."""

    def __init__(self, seconds: float = 0.5) -> None:
        self._seconds = seconds
        self._rounds = 1
        self._per_round = math.inf

    def __call__(self) -> int:
        """The rounds of the chunk that begins now."""
        return self._rounds

    @property
    def short(self) -> bool:
        """Whether chunks are known to take no longer than twice what they should."""
        return self._rounds * self._per_round <= 2 * self._seconds

    def learn(self, rounds: int, seconds: float) -> None:
        """Says how long a chunk took, without the time of compiling."""
        self._per_round = seconds / rounds
        wanted = self._seconds / self._per_round
        self._rounds = max(1, min(math.floor(wanted), 4 * max(rounds, self._rounds)))


def round_weights(searcher: Searcher, problem: Problem) -> np.ndarray:
    """[R] candidates times steps of each round: how long rounds are, compared with each other."""
    weights = iter([plan.candidates * plan.steps for plan in stage_plans(searcher, problem)])
    stages = [
        np.tile(np.asarray([next(weights) for _ in stage.turns], np.float64), stage.rounds)
        for stage in stages_of(searcher, problem)
    ]
    return np.concatenate(stages)


class Reporter:
    """Shows rounds done, best score, network passes per second and the time left.

    Args:
        console: where to.
        weights: [R] how long rounds are, compared with each other.
        begun: where the search goes on; None begins.
        quiet: whether to show nothing.
        beside: what else is shown, asked for each time; None: nothing.
    """

    def __init__(
        self,
        console: Console,
        weights: np.ndarray,
        begun: SearchState | None,
        *,
        quiet: bool,
        beside: Callable[[], str] | None = None,
    ) -> None:
        self._console, self._quiet, self._beside = console, quiet, beside
        self._note = "first round"
        self._work = np.concatenate([[0.0], np.cumsum(weights)])  # done after each round
        self._round, self._passes = (0, 0.0) if begun is None else _so_far(begun)
        self._seconds_per_work = 0.0
        self._live = console.is_terminal and not quiet
        self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn("searching"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._progress.add_task("", total=self._work[-1], note="compiling")

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def __call__(self, state: SearchState, seconds: float) -> None:
        """Shows a state whose chunk took so many seconds, without those of compiling."""
        if self._quiet:
            return
        done, passes = _so_far(state)
        if done == self._round:
            return
        work = self._work[done]
        pace = seconds / (work - self._work[self._round])
        self._seconds_per_work += (0.3 if self._seconds_per_work else 1.0) * (
            pace - self._seconds_per_work
        )
        left = int((self._work[-1] - work) * self._seconds_per_work)
        note = (
            f"round {done}/{len(self._work) - 1}  {_score(state)}  "
            f"{(passes - self._passes) / seconds:,.0f} passes/s  {left // 60}:{left % 60:02d} left"
        )
        self._round, self._passes, self._note = done, passes, note
        self._progress.update(self._task, completed=work)
        self.tick()

    def tick(self) -> None:
        """Shows what is new beside the rounds."""
        if self._quiet:
            return
        note = self._note + ("" if self._beside is None else f"  {self._beside()}")
        self._progress.update(self._task, note=note)
        if not self._live and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(f"searching: {note}", highlight=False)


class ImagesShown:
    """Says how many images have gone by; without a terminal now and then, in a line.

    Args:
        name: whose images they are.
        number: of all of them, where it is known.
        console: where to.
        quiet: whether to show nothing.
    """

    def __init__(self, name: str, number: int | None, console: Console, *, quiet: bool) -> None:
        self._name, self._number, self._console, self._quiet = name, number, console, quiet
        self._begin = self._said = time.monotonic()
        self._progress = Progress(
            TextColumn(name),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=number, note="compiling")

    def __enter__(self) -> ImagesShown:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def __call__(self, number: int) -> None:
        """Told after each batch."""
        now = time.monotonic()
        rate = number / max(now - self._begin, 1e-9)
        whole = self._number or number
        left = math.ceil((whole - number) / rate)
        note = f"{number:,}/{whole:,}  {rate:,.0f} images/s  {left // 60}:{left % 60:02d} left"
        self._progress.update(self._task, completed=number, note=note)
        quiet = self._quiet or self._console.is_terminal
        if not quiet and now - self._said >= LINE_SECONDS:
            self._said = now
            self._console.print(f"{self._name}: {note}", highlight=False)


def _so_far(state: SearchState) -> tuple[int, float]:
    return int(state.round), float(np.sum(np.asarray(state.cost.network_passes)))


def _score(state: SearchState) -> str:
    best = np.asarray(state.score)
    if np.isfinite(best).all():
        return f"best {best.mean():.3f}"
    current = np.asarray(state.trace.current[int(state.round) - 1])
    current = current[np.isfinite(current)]
    return f"best estimate {current.mean():.3f}" if len(current) else "no score yet"
