"""Any function of Python as a grader."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxsearch.graders.types import Grade, Grader


def function(
    name: str,
    grade: Callable[[np.ndarray, str], float],
    *,
    identity: str,
    parallel: bool = False,
) -> Grader:
    """A function that gives an image a number: more is better.

    Args:
        name: the column it has in records.
        grade: `(image uint8 [h,w,c], prompt) -> number`. What it raises, and a number that is not
            finite, is a failure.
        identity: names it and its version: answers are kept under this, so change it when what the
            function says has changed.
        parallel: whether it may be called from several threads at once.
    """
    return Grader(
        name, f"function {identity}", lambda image, prompt: Grade(float(grade(image, prompt))),
        parallel,
    )  # fmt: skip
