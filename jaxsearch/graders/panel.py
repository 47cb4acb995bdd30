"""Graders asked about many images at once, and a record of what each said."""

from __future__ import annotations

import concurrent.futures
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.pixels import to_pixels
from jaxsearch.graders.cache import Cache
from jaxsearch.graders.log import Log
from jaxsearch.graders.pictures import key_of
from jaxsearch.graders.types import Grade, Grader, GradingError, SpentError


class Failure(NamedTuple):
    """An image that a grader gave no grade."""

    grader: str
    prompt: str
    key: str  # of image, prompt and grader
    reason: str
    attempts: int


class _About(NamedTuple):
    """The prompt of an image."""

    prompt: str
    id: int | None


class _Question(NamedTuple):
    """What one grader is asked once, and where in the answers it belongs."""

    grader: int
    image: int
    key: str
    places: list[tuple[int, int]]


class Panel:
    """Several graders, asked in batches.

    An image that was graded before for the same prompt is not sent again, nor is one that a batch
    has twice. A grader that fails leaves NaN, never a number, and is noted in `failures`.

    Args:
        graders: of different names.
        cache: the file that grades are kept in beyond this process; None: they live as long as
            this.
        log: a file of JSON lines, one for each grade and failure as it comes, to which is added;
            None: none.
        concurrency: questions that are under way at once, from 1.
        progress: called after each grade and failure; None: nobody.
        halt: whether a cap that is reached raises `SpentError`, once what was under way is answered
            and kept, instead of being a failure.

    Attributes:
        failures: in the order in which they happened.
        asked: how many questions went to graders.
        found: how many were answered by what was kept.

    Raises:
        ValueError: if there is no grader, two have one name, or a file cannot be opened.
    """

    def __init__(
        self,
        graders: Sequence[Grader],
        *,
        cache: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | None = None,
        concurrency: int = 8,
        progress: Callable[[], None] | None = None,
        halt: bool = False,
    ) -> None:
        check_count("concurrency", concurrency)
        names = [one.name for one in graders]
        if not names:
            raise ValueError("there are no graders: give at least one")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two graders are called {name}: give them names of their own")
        self.graders = tuple(graders)
        self.failures: list[Failure] = []
        self.asked = self.found = 0
        self._cache, self._log = Cache(cache), None if log is None else Log(log)
        self._concurrency, self._progress, self._halt = concurrency, progress, halt
        self._spent: SpentError | None = None

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        wanted: np.ndarray | None = None,
        ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """The scores [n, G] float32 of images; NaN where a grader failed or was not asked.

        Args:
            images: [n,h,w,c] float in [0, 1], c = 1 or 3; graders see their 8-bit levels. One with
                a pixel that is not finite fails, and is shown to nobody.
            prompts: [n] what each was asked for.
            wanted: [n, G] bool, which grader is asked about which image; None: all about all.
            ids: [n] of the prompts, for the log; None: it says their texts alone.

        Raises:
            SpentError: if a cap is reached and the panel is to `halt` then.
            ValueError: if images are no floats or no images, or there are not as many prompts.
        """
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype.kind != "f":
            raise ValueError(
                f"images have the shape {images.shape} and the type {images.dtype}: pass [n,h,w,c] "
                "of floats in [0, 1], c = 1 or 3"
            )
        if len(prompts) != len(images):
            raise ValueError(f"there are {len(prompts)} prompts for {len(images)} images")
        about = [
            _About(text, None if ids is None else int(ids[i])) for i, text in enumerate(prompts)
        ]
        shape = len(images), len(self.graders)
        wanted = np.ones(shape, bool) if wanted is None else wanted
        sound = np.isfinite(images).all(axis=(1, 2, 3))
        pictures = to_pixels(images)
        scores = np.full(shape, np.nan, np.float32)
        questions: dict[str, _Question] = {}
        for row, column in np.argwhere(wanted):
            grader = self.graders[column]
            key = key_of(grader.identity, pictures[row], prompts[row])
            if not sound[row]:
                reason = "the image has pixels that are not finite"
                self._note(grader, about[row], key, GradingError(reason, 0))
                continue
            one = questions.setdefault(f"{column} {key}", _Question(column, row, key, []))
            one.places.append((row, column))
        for question, score in self._answers(list(questions.values()), pictures, about):
            for place in question.places:
                scores[place] = score
        return scores

    def _answers(
        self, questions: Sequence[_Question], pictures: np.ndarray, about: Sequence[_About]
    ) -> list[tuple[_Question, float]]:
        answers, open_ = [], []
        for one in questions:
            kept = self._cache.get(one.key)
            if kept is None:
                open_.append(one)
            else:
                self.found += 1
                self._note(self.graders[one.grader], about[one.image], one.key, kept)
                answers.append((one, kept.score))
        self.asked += len(open_)
        pool = concurrent.futures.ThreadPoolExecutor(self._concurrency)

        def judge(one: _Question) -> Grade | GradingError:
            return _judged(self.graders[one.grader], pictures[one.image], about[one.image].prompt)

        try:
            parallel = [one for one in open_ if self.graders[one.grader].parallel]
            running = {pool.submit(judge, one): one for one in parallel}
            for one in open_:
                if not self.graders[one.grader].parallel:
                    answers.append((one, self._taken(one, judge(one), about)))
            for done in concurrent.futures.as_completed(running):
                one = running[done]
                answers.append((one, self._taken(one, done.result(), about)))
        finally:
            pool.shutdown(cancel_futures=True)  # of what nobody waits for after an interruption
        if self._spent is not None:
            raise self._spent
        return answers

    def _taken(
        self, question: _Question, grade: Grade | GradingError, about: Sequence[_About]
    ) -> float:
        """The score of what a grader said, kept and noted."""
        if isinstance(grade, SpentError) and self._halt:
            self._spent, grade.grader = grade, self.graders[question.grader].name
            if not grade.attempts:  # nobody was asked
                return math.nan
        if isinstance(grade, Grade):
            kept = self._cache.put(question.key, grade)
            grade = grade._replace(score=kept.score, details=kept.details)
        self._note(self.graders[question.grader], about[question.image], question.key, grade)
        return grade.score if isinstance(grade, Grade) else math.nan

    def _note(self, grader: Grader, about: _About, key: str, grade: Grade | GradingError) -> None:
        line: dict[str, Any] = {"grader": grader.name, "prompt": about.prompt, "key": key}
        if about.id is not None:
            line["id"] = about.id
        line |= {"attempts": grade.attempts, "cost": grade.cost}
        if isinstance(grade, GradingError):
            failure = Failure(grader.name, about.prompt, key, str(grade), grade.attempts)
            self.failures.append(failure)
            line["failure"] = failure.reason
        else:
            line |= {"score": grade.score, "details": dict(grade.details)}
        if self._log is not None:
            self._log.add(line)
        if self._progress is not None:
            self._progress()


def _judged(grader: Grader, picture: np.ndarray, prompt: str) -> Grade | GradingError:
    """What a grader says; whatever goes wrong is its failure and ends no search."""
    try:
        grade = grader.grade(picture, prompt)
    except GradingError as error:
        return error
    except Exception as error:  # of a function that anybody may have written
        return GradingError(f"{type(error).__name__}: {error}")
    if not math.isfinite(grade.score):
        return GradingError(f"the score is {grade.score}", grade.attempts)
    return grade
