"""A figure that was computed on several parts of a population."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """What parts of a population gave."""

    mean: float
    std: float  # over the parts, divided by their number


def spread_of(values: np.ndarray) -> Spread:
    """Mean and standard deviation of the parts' values [p]; NaN if one is not finite."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return Spread(math.nan, math.nan)
    return Spread(float(values.mean()), float(values.std()))
