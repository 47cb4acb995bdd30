"""The graders of a run at work: what they are asked, what they have said, and what that cost."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxsearch.core.host import Graded, Score
from jaxsearch.core.types import Problem, Prompts
from jaxsearch.graders import Grader, Panel, mixed
from jaxsearch.graders.log import Log
from jaxsearch.runs import components
from jaxsearch.runs.build import Built, Made
from jaxsearch.runs.config import Config
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.folder import RunFolder
from jaxsearch.runs.graders import GRADERS

_IN_VAIN = 4
"""Questions without a single answer after which a run says so and stops."""


def graders_of(config: Config) -> dict[str, Grader]:
    """The graders that a config names, guides first.

    Raises:
        UserError: if a setting is missing or out of range.
    """
    return {
        part.name: components.build("verifier", part.name, part.settings, config.model.name)
        for part in config.guide + config.report
        if part.name in GRADERS
    }


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


class Grading:
    """The graders of a run.

    Args:
        config: of the run.
        built: of it.
        graders: of it.
        folder: of it; grades are kept there, and what was asked before it was stopped counts.
        concurrency: questions that are under way at once.

    Raises:
        UserError: if a file of it is damaged.
    """

    def __init__(
        self,
        config: Config,
        built: Built,
        graders: dict[str, Grader],
        folder: RunFolder,
        concurrency: int,
    ) -> None:
        self._config, self._names, self._path = config, list(built.verifiers), folder.path
        self._guides = [name for name in self._names[: built.num_guides] if name in graders]
        self._columns = [i for i, name in enumerate(self._names) if name in graders]
        self._ids = np.asarray(built.prompts.ids)
        self.progress: Callable[[], None] = lambda: None
        """Called after each answer."""
        how: dict[str, Any] = {
            "cache": folder.grades,
            "log": folder.grade_log,
            "concurrency": concurrency,
            "progress": lambda: self.progress(),
        }
        with explained(str(folder.path)):
            self._log = Log(folder.grade_log)
            self._count_in(graders)
            self._all = Panel([graders[self._names[i]] for i in self._columns], **how)
            guides = [graders[name] for name in self._guides]
            self._searching = Panel(guides, **how) if guides else None
        self._graders = graders
        self._silent = set(self._guides)  # those that have not answered yet

    @property
    def guides(self) -> bool:
        """Whether a grader guides the search."""
        return self._searching is not None

    def _count_in(self, graders: dict[str, Grader]) -> None:
        """Has caps hold for the whole run, however often it was stopped."""
        spent: dict[str, list[tuple[int, float]]] = collections.defaultdict(list)
        for line in self._log.lines():
            if line["attempts"]:
                spent[line["grader"]].append((line["attempts"], line.get("cost", 0.0)))
        for name, lines in spent.items():
            client = graders[name].client if name in graders else None
            if client is not None:
                attempts, costs = zip(*lines, strict=True)
                largest = max(cost / number for number, cost in lines)
                client.count_in(sum(attempts), float(np.sum(costs)), largest)

    def score(self, problem: Problem, prompts: Prompts, microbatch: int | None) -> Score:
        """What a search by the host asks, its guides in the order of the config."""
        assert self._searching is not None
        guides = self._names[: len(problem.objective.verifiers)]
        local = [name for name in guides if name not in self._guides]
        verifiers = dict(zip(guides, problem.objective.verifiers, strict=True))
        ask = mixed(
            self._searching,
            prompts,
            self._config.prompts,
            verifiers=[verifiers[name] for name in local],
            fraction=self._config.grader_fraction,
            microbatch=microbatch,
        )
        order = [[*local, *self._guides].index(name) for name in guides]

        def score(images: np.ndarray, ids: np.ndarray) -> Graded:
            with explained(str(self._path)):  # a full disk, perhaps
                said = ask(images, ids)
            assert isinstance(said, Graded)
            self._check_answered()
            return Graded(said.scores[:, order], said.asked[:, order])

        return score

    def _check_answered(self) -> None:
        """Stops where a grader has answered nothing yet, before more is spent in vain.

        Raises:
            UserError: if so.
        """
        if not self._silent:
            return
        for name, lines in self._lines().items():
            failed = [line for line in lines if "failure" in line and line["attempts"]]
            if len(failed) < len(lines):
                self._silent.discard(name)
            elif name in self._silent and len(failed) >= _IN_VAIN:
                raise UserError(
                    f"{name} has answered none of {len(failed)} questions "
                    f"({failed[-1]['failure']}): the run has stopped; once it answers, go on with "
                    f"`jaxsearch search --resume {self._path}`"
                )

    def complete(self, made: Made) -> Made:
        """Samples [P] with what graders say of their pictures beside what verifiers say."""
        scores = np.array(made.scores)
        with explained(str(self._path)):
            scores[:, self._columns] = self._all(
                np.asarray(made.images), self._config.prompts, None, self._ids
            )
        return made._replace(scores=scores)

    def _lines(self) -> dict[str, list[dict[str, Any]]]:
        """What was asked of each grader since the run began."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in self._graders}
        for line in self._log.lines():
            if line["grader"] in found:
                found[line["grader"]].append(line)
        return found

    def account(self) -> dict[str, dict[str, Any]]:
        """What was asked of each grader and paid, since the run began."""
        accounts = {name: _account(lines) for name, lines in self._lines().items()}
        for name, lines in self._lines().items():
            reasons = collections.Counter(line["failure"] for line in lines if "failure" in line)
            accounts[name]["reason"] = reasons.most_common(1)[0][0] if reasons else None
        return accounts

    def account_of(self, ids: Sequence[int]) -> list[dict[str, dict[str, Any]]]:
        """The same of single prompts."""
        by_prompt: dict[int, dict[str, list[dict[str, Any]]]] = {
            one: {name: [] for name in self._graders} for one in ids
        }
        for name, lines in self._lines().items():
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
