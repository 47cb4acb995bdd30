"""What a grader is: a judge outside the program, that may fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxsearch.graders.client import Client


class GradingError(Exception):
    """Why an image got no grade.

    Attributes:
        attempts: how often the grader was asked.
        cost: of these attempts.
    """

    def __init__(self, reason: str, attempts: int = 1, cost: float = 0.0) -> None:
        super().__init__(reason)
        self.attempts, self.cost = attempts, cost


class SpentError(GradingError):
    """A cap is reached: nobody was asked, and nobody will be.

    Attributes:
        grader: whose cap it is, where it has come from a panel.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, 0)
        self.grader = ""


class Grade(NamedTuple):
    """What a grader says of an image."""

    score: float  # finite; more is better
    details: Mapping[str, Any] = {}  # how it comes about, as JSON has it
    attempts: int = 1  # how often it was asked until it answered
    cost: float = 0.0  # of these attempts, in the unit of the client's price


@dataclasses.dataclass(frozen=True)
class Grader:
    """A judge of images on the host.

    Attributes:
        name: the column it has in records.
        identity: all that its grades hang on beside image and prompt, as a text: answers are kept
            under it.
        grade: `(image uint8 [h,w,c], prompt) -> Grade`. It may raise anything, which is a failure.
        parallel: whether several images may be judged at once, from threads of their own.
        client: who asks for it, where it is a model behind HTTP.
    """

    name: str
    identity: str
    grade: Callable[[np.ndarray, str], Grade]
    parallel: bool = True
    client: Client | None = None
