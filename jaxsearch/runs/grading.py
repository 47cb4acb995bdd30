"""The graders of a run at work: what they are asked, what they have said, and what that cost."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsearch.core.host import Graded, Score
from jaxsearch.core.types import Problem, Prompts
from jaxsearch.graders import Grader, Panel, mixed
from jaxsearch.graders.budget import abandon
from jaxsearch.graders.log import Log
from jaxsearch.runs import components
from jaxsearch.runs.build import Built, Made
from jaxsearch.runs.config import Component, Config
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.folder import RunFolder

_IN_VAIN = 4
"""Questions without a single answer after which a run says so and stops."""


def graders_of(config: Config) -> dict[str, Grader]:
    """The graders that a config names, guides first.

    Raises:
        UserError: if a setting is missing or out of range.
    """
    return {part.name: grader_of(part, config) for part in config.guide + config.report
            if part.name in config.graders}  # fmt: skip


def grader_of(part: Component, config: Config) -> Grader:
    """A grader of a config.

    Raises:
        UserError: if a setting is missing or out of range.
    """
    return components.build("verifier", part.name, part.settings, config.model.name)


def check_reachable(graders: dict[str, Grader]) -> None:
    """Looks whether the servers of graders are there, and asks them nothing.

    Raises:
        UserError: if one is not.
    """
    for name, grader in graders.items():
        if grader.client is not None:
            with explained(name):
                try:
                    grader.client.check_reachable()
                except ValueError as error:
                    raise ValueError(
                        f"{error}: start the server, or correct --verifiers.{name}.url"
                    ) from error


class SilentError(UserError):
    """A grader that guides a search has not answered yet.

    Attributes:
        grader: its name.
    """

    def __init__(self, grader: str, message: str) -> None:
        super().__init__(message)
        self.grader = grader


class Files(NamedTuple):
    """Where what graders have said is kept, and what to do when they say nothing."""

    path: Path  # of the run or the sweep
    grades: Path  # answers and the account of attempts, of all that share caps
    log: Path  # of this search
    again: str  # how it goes on


def files_of_run(folder: RunFolder) -> Files:
    """Those of a run, at which nobody else is at work."""
    with explained(str(folder.path)):
        abandon(folder.grades)
    again = f"go on with `jaxsearch search --resume {folder.path}`"
    return Files(folder.path, folder.grades, folder.grade_log, again)


def share_account(graders: Mapping[str, Grader], grades: Path) -> None:
    """Has caps hold for all that is asked under a grader's name, however often it was stopped.

    Raises:
        UserError: if the file is damaged.
    """
    for name, grader in graders.items():
        if grader.client is not None:
            with explained(str(grades)):
                grader.client.share_account(grades, name)


class Grading:
    """The graders of a search.

    Args:
        built: the search.
        graders: of it.
        files: of it.
        texts: [P] the prompts of the search.
        ids: [P] of them.
        fraction: of a round's candidates of a prompt, the part that guides are asked about.
        concurrency: questions that are under way at once.
        halt: whether a cap that is reached ends the search, by `SpentError`, instead of being a
            failure of each question.

    Raises:
        UserError: if a file of it is damaged.
    """

    def __init__(
        self,
        built: Built,
        graders: Mapping[str, Grader],
        files: Files,
        texts: Sequence[str],
        ids: np.ndarray,
        *,
        fraction: float,
        concurrency: int,
        halt: bool = False,
    ) -> None:
        self._names, self._files, self._fraction = list(built.verifiers), files, fraction
        self._texts, self._ids = list(texts), np.asarray(ids)
        self._guides = [name for name in self._names[: built.num_guides] if name in graders]
        self._columns = [i for i, name in enumerate(self._names) if name in graders]
        self._reports = [i for i in self._columns if i >= built.num_guides]
        self.progress: Callable[[], None] = lambda: None
        """Called after each answer."""
        self.is_alive: Callable[[str, tuple[int, ...]], bool] = lambda name, shape: False
        """Whether a grader that has answered nothing yet, of images [h,w,c], would answer others:
        then it is about these that it says nothing."""

        def panel(names: Sequence[str]) -> Panel | None:
            how: dict[str, Any] = {
                "cache": files.grades,
                "log": files.log,
                "concurrency": concurrency,
                "progress": lambda: self.progress(),
                "halt": halt,
            }
            return Panel([graders[name] for name in names], **how) if names else None

        with explained(str(files.path)):
            self._log = Log(files.log)
            collections.deque(self._log.lines(), 0)  # which looks whether they are whole
            self._all = panel([self._names[i] for i in self._columns])
            self._searching = panel(self._guides)
            self._reporting = panel([self._names[i] for i in self._reports])
        self._graders = graders
        self._silent = set(self._guides)  # those that have not answered yet

    @property
    def guides(self) -> bool:
        """Whether a grader guides the search."""
        return self._searching is not None

    def score(self, problem: Problem, prompts: Prompts, microbatch: int | None) -> Score:
        """What a search by the host asks, its guides in the order of the config."""
        assert self._searching is not None
        guides = self._names[: len(problem.objective.verifiers)]
        local = [name for name in guides if name not in self._guides]
        verifiers = dict(zip(guides, problem.objective.verifiers, strict=True))
        ask = mixed(
            self._searching,
            prompts,
            self._texts,
            verifiers=[verifiers[name] for name in local],
            fraction=self._fraction,
            microbatch=microbatch,
        )
        order = [[*local, *self._guides].index(name) for name in guides]

        def score(images: np.ndarray, ids: np.ndarray) -> Graded:
            with explained(str(self._files.path)):  # a full disk, perhaps
                said = ask(images, ids)
            assert isinstance(said, Graded)
            self._check_answered(images.shape[1:])
            return Graded(said.scores[:, order], said.asked[:, order])

        return score

    def _check_answered(self, shape: tuple[int, ...]) -> None:
        """Stops where a grader has answered nothing yet, before more is spent in vain.

        Raises:
            SilentError: if so.
        """
        if not self._silent:
            return
        for name, lines in self._lines_by_name().items():
            failed = [line for line in lines if "failure" in line and line["attempts"]]
            if len(failed) < len(lines):
                self._silent.discard(name)
            elif name in self._silent and len(failed) >= _IN_VAIN:
                if self.is_alive(name, shape):
                    self._silent.discard(name)
                    continue
                raise SilentError(
                    name,
                    f"{name} has answered none of {len(failed)} questions "
                    f"({failed[-1]['failure']}): the search has stopped; once it answers, "
                    f"{self._files.again}",
                )

    def complete(self, made: Made) -> Made:
        """Samples [P] with what graders say of their pictures beside what verifiers say."""
        assert self._all is not None
        scores = np.array(made.scores)
        with explained(str(self._files.path)):
            scores[:, self._columns] = self._all(
                np.asarray(made.images), self._texts, None, self._ids
            )
        return made._replace(scores=scores)

    def look_on(self, images: np.ndarray, scores: np.ndarray) -> None:
        """Writes what graders that only report say of images [P,h,w,c] into scores [P, V]."""
        if self._reporting is not None:
            with explained(str(self._files.path)):
                scores[:, self._reports] = self._reporting(images, self._texts, None, self._ids)

    def _lines_by_name(self) -> dict[str, list[dict[str, Any]]]:
        """What was asked of each grader since the run began."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in self._graders}
        for line in self._log.lines():
            if line["grader"] in found:
                found[line["grader"]].append(line)
        return found

    def account(self) -> dict[str, dict[str, Any]]:
        """What was asked of each grader and paid, since the run began."""
        by_name = self._lines_by_name()
        accounts = {name: _account(lines) for name, lines in by_name.items()}
        for name, lines in by_name.items():
            reasons = collections.Counter(line["failure"] for line in lines if "failure" in line)
            accounts[name]["reason"] = reasons.most_common(1)[0][0] if reasons else None
        return accounts

    def account_of(self, ids: Sequence[int]) -> list[dict[str, dict[str, Any]]]:
        """The same of single prompts."""
        by_prompt: dict[int, dict[str, list[dict[str, Any]]]] = {
            one: {name: [] for name in self._graders} for one in ids
        }
        for name, lines in self._lines_by_name().items():
            for line in lines:
                if line.get("id") in by_prompt:
                    by_prompt[line["id"]][name].append(line)
        return [{name: _account(lines) for name, lines in by_prompt[one].items()} for one in ids]

    def note(self) -> str:
        """What is shown while a search runs."""
        panels = [panel for panel in (self._searching, self._all) if panel is not None]
        asked, failed = sum(one.asked for one in panels), sum(len(one.failures) for one in panels)
        clients = [one.client for one in self._graders.values() if one.client is not None]
        cost = sum(client.cost for client in clients)
        text = f"{asked:,} asked"
        text += f", {failed:,} failed" if failed else ""
        return text + (f", cost {cost:.4g}" if cost else "")


def _account(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "questions": len(lines),
        "kept": sum(1 for line in lines if not line["attempts"] and "failure" not in line),
        "failed": sum(1 for line in lines if "failure" in line),
        "attempts": sum(line["attempts"] for line in lines),
        "cost": round(float(np.sum([line.get("cost", 0.0) for line in lines])), 9),
    }
