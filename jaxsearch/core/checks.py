"""Checks of settings: one clear line that names the value and the remedy."""

from __future__ import annotations

import math
import operator

import jax

MOST = 10**6
"""The largest count of anything: more is a slip of the keyboard, and what is counted is int32."""


def is_traced(value: object) -> bool:
    """Whether a setting is being swept in one program, so that its value cannot be looked at."""
    return isinstance(value, jax.core.Tracer)


def check_range(
    name: str,
    value: float | jax.Array,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuses a number outside an interval. A traced value cannot be looked at and passes.

    An infinite bound does not belong to the interval, so infinity is refused like any other value
    that is outside.

    Raises:
        ValueError: if the value is outside, or is no number.
    """
    if is_traced(value):
        return
    open_low, open_high = open_low or low == -math.inf, open_high or high == math.inf
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        left, right = "(" if open_low else "[", ")" if open_high else "]"
        raise ValueError(f"{name} is {value}: it must lie in {left}{low:g}, {high:g}{right}")


def check_fixed(name: str, value: object) -> None:
    """Refuses a traced value where a setting decides on the shape of the program.

    Raises:
        ValueError: if the value is traced.
    """
    if is_traced(value):
        raise ValueError(
            f"{name} is traced, but it decides on the rounds and sizes of a search: pass a number "
            "and sweep it with one search for each value"
        )


def check_count(name: str, value: int, low: int = 1, high: int = MOST) -> None:
    """Refuses what is no whole number from `low` to `high`. NumPy's integers are whole numbers.

    Raises:
        ValueError: if the value is none.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = low - 1
    if isinstance(value, bool) or not low <= count <= high:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
