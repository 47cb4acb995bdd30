"""The graders of a sweep: one client for each, one account of all units and processes."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from rich.console import Console

from jaxsearch.core.host import Graded, Score
from jaxsearch.core.types import Prompts
from jaxsearch.graders import Grader, SpentError
from jaxsearch.runs.build import Built
from jaxsearch.runs.config import Component, Config
from jaxsearch.runs.driving import GivenUpError
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.grading import (
    Files,
    Grading,
    SilentError,
    check_reachable,
    grader_of,
    share_account,
)
from jaxsearch.sweeps.folder import SweepFolder
from jaxsearch.sweeps.units import Unit


class Judges:
    """What a process of a sweep asks.

    A unit is done when all that it asks has been asked. Where a cap is reached, or nobody answers,
    it is given up, and so are all others that ask the same grader: the same command goes on with
    them, and nothing is asked twice. A question that fails while others are answered is a recorded
    failure, as in a run. Where all of a unit's do, one more is asked, about a white picture: what a
    server will not look at must not stop the sweep for good.

    Args:
        folder: of the sweep; nothing is written there before `open`.
        concurrency: questions that are under way at once.
    """

    def __init__(self, folder: SweepFolder, concurrency: int) -> None:
        self._folder, self._concurrency = folder, concurrency
        self._made: dict[str, Grader] = {}
        self._over: dict[str, str] = {}  # why a grader is not asked any more
        self._failed: collections.Counter[str] = collections.Counter()
        self._asked: collections.Counter[str] = collections.Counter()

    def make(self, configs: Iterable[Config]) -> None:
        """Makes the graders that configs name and looks whether their servers are there.

        Raises:
            UserError: if a setting is missing or out of range, or a server is not there.
        """
        for config in configs:
            for part in _parts(config):
                if _key(part) not in self._made:
                    grader = grader_of(part, config)
                    check_reachable({part.name: grader})
                    self._made[_key(part)] = grader

    def open(self) -> None:
        """Has caps hold for the whole sweep, in however many processes and goes it is searched.

        Raises:
            UserError: if the file of the account is damaged.
        """
        for grader in self._made.values():
            share_account({grader.name: grader}, self._folder.grades)

    def of(self, unit: Unit, config: Config, built: Built, prompts: Prompts) -> Grading | None:
        """The graders of a unit; None where it has none.

        Raises:
            UserError: if one of them is not asked any more.
        """
        parts = {part.name: _key(part) for part in _parts(config)}
        if not parts:
            return None
        for key in parts.values():
            if key in self._over:
                raise UserError(self._over[key])
        log = self._folder.grade_log(unit.id)
        log.parent.mkdir(parents=True, exist_ok=True)
        graders = {name: self._made[key] for name, key in parts.items()}
        grading = Grading(
            built,
            graders,
            Files(self._folder.path, self._folder.grades, log, _AGAIN),
            config.prompts[unit.begin : unit.end],
            np.asarray(prompts.ids)[: unit.prompts],
            fraction=config.grader_fraction,
            concurrency=self._concurrency,
            halt=True,
        )
        texts = set(config.prompts[unit.begin : unit.end])
        other = next((text for text in config.prompts if text not in texts), "a white picture")
        grading.is_alive = lambda name, shape: _answers(graders[name], other, shape)
        return grading

    def score(
        self, grading: Grading, config: Config, built: Built, prompts: Prompts
    ) -> Callable[[int | None], Score]:
        """What a job asks: for so many images at once, its guides."""

        def of_size(microbatch: int | None) -> Score:
            ask = grading.score(built.problem, prompts, microbatch)

            def score(images: np.ndarray, ids: np.ndarray) -> np.ndarray | Graded:
                try:
                    return ask(images, ids)
                except (SpentError, SilentError) as error:
                    raise GivenUpError(self.over(config, error)) from error

            return score

        return of_size

    def over(self, config: Config, error: SpentError | SilentError) -> str:
        """Notes that a grader is not asked any more, and says why."""
        message = str(error)
        if isinstance(error, SpentError):
            message = f"{error.grader}: {message}: raise it in the sweep's file, and {_AGAIN}"
        for part in _parts(config):
            if part.name == error.grader:
                self._over[_key(part)] = message
        return message

    def note(self, account: Mapping[str, Mapping[str, Any]]) -> None:
        """Counts what a unit that is done has asked."""
        for name, one in account.items():
            self._asked[name] += one["questions"]
            self._failed[name] += one["failed"]

    def say_failures(self, console: Console) -> None:
        """Warns of failures in units that are done."""
        for name, failed in self._failed.items():
            if failed:
                console.print(
                    f"warning: {failed:,} of {self._asked[name]:,} questions to {name} have "
                    f"failed; all are in {self._folder.path / 'logs'}",
                    highlight=False,
                )


def _answers(grader: Grader, prompt: str, shape: tuple[int, ...]) -> bool:
    """Whether a grader says anything of a white picture."""
    try:
        return math.isfinite(grader.grade(np.full(shape, 255, np.uint8), prompt).score)
    except Exception:  # of a function that anybody may have written
        return False


_AGAIN = "the same command goes on"


def _parts(config: Config) -> list[Component]:
    """The graders of a config, guides first."""
    return [part for part in config.guide + config.report if part.name in config.graders]


def _key(part: Component) -> str:
    return json.dumps([part.name, part.settings], sort_keys=True)
