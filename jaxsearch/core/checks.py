"""Checks of settings: one clear line that names the value and the remedy."""

from __future__ import annotations

import math

import jax


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

    Raises:
        ValueError: if the value is outside, or is no number.
    """
    if isinstance(value, jax.core.Tracer):
        return
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise ValueError(f"{name} is {value}: it must lie in {left}{low:g}, {high:g}{right}")
