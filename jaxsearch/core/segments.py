"""How a searcher of injected noise divides the solver steps: how often it acts, and where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxsearch.core.checks import check_count
from jaxsearch.core.noise import require_noise
from jaxsearch.core.types import NoiseSpace

Window = tuple[float, float] | None
"""The noise levels `(sigma_min, sigma_max)` at which searched segments begin; None: all."""


class Segment(NamedTuple):
    """Consecutive solver steps that are taken in one round."""

    begin: int  # the first step
    end: int  # the step after the last
    searched: bool  # whether a searcher acts on it, or passes it plainly

    @property
    def num_steps(self) -> int:
        """`S`, the steps of the segment."""
        return self.end - self.begin


def check_segments(every: int, window: Window) -> None:
    """Refuses settings that no solver could be divided by.

    Raises:
        ValueError: if `every` is below 1 or the window is no interval of noise levels.
    """
    check_count("every", every)
    if window is None:
        return
    try:
        low, high = window
        ordered = bool(0 <= low <= high)
    except (TypeError, ValueError):
        ordered = False
    if not ordered:
        raise ValueError(
            f"window is {window}: give the lowest and the highest noise level, 0 or more"
        )


def segments(
    space: NoiseSpace,
    *,
    every: int,
    window: Window,
    what: str,
    begins: Sequence[bool] | None = None,
) -> tuple[Segment, ...]:
    """Divides the `T` solver steps into segments that are searched and such that are passed.

    From left to right: a step that takes noise and lies inside the window begins a searched segment
    of `every` steps, or fewer at the end. Steps up to the next such step are one passed segment.

    Args:
        space: the search's.
        every: the most steps of a searched segment.
        window: the noise-to-signal ratios `sigma/alpha` at which searched segments may begin, both
            ends included; None allows all.
        what: the searcher, for messages.
        begins: [T] whether a searched segment may begin at a step; None means where it takes noise.

    Raises:
        ValueError: if no segment is left to search.
    """
    if begins is None:
        require_noise(space, what)
        begins = space.active
    low, high = (0.0, math.inf) if window is None else window
    inside = [
        allowed and low <= level <= high
        for allowed, level in zip(begins, space.levels, strict=True)
    ]
    if not any(inside):
        levels = [
            f"{level:.3g}" for level, allowed in zip(space.levels, begins, strict=True) if allowed
        ]
        raise ValueError(
            f"window is {(low, high)}, which leaves {what} no step to search: widen it to hold one "
            f"of the noise levels {', '.join(levels)}"
        )
    found: list[Segment] = []
    while not found or found[-1].end < space.num_steps:
        begin = found[-1].end if found else 0
        if inside[begin]:
            end = min(begin + every, space.num_steps)
        else:
            later = range(begin, space.num_steps)
            end = next((step for step in later if inside[step]), space.num_steps)
        found.append(Segment(begin, end, inside[begin]))
    return tuple(found)


def runs(divided: Iterable[Segment]) -> tuple[tuple[Segment, ...], ...]:
    """Segments of equal shape that follow each other: the rounds of one stage."""
    grouped = itertools.groupby(divided, key=lambda one: (one.num_steps, one.searched))
    return tuple(tuple(run) for _, run in grouped)
