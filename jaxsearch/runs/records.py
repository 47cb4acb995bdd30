"""What is written about each prompt, and what is said of all of them together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from jaxsearch.core.types import Cost
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import read_text, write_atomic


class Scores(NamedTuple):
    """One verifier's scores of the plain and of the found samples."""

    role: str  # "guide" or "report"
    plain: np.ndarray  # [P]
    found: np.ndarray  # [P]


class Mean(NamedTuple):
    """A mean over prompts and its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float


def mean_of(values: np.ndarray) -> Mean:
    """The mean of the finite values; `nan` without any, no interval with only one."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Mean(float(values[0]) if len(values) else math.nan, math.nan, math.nan)
    half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
    centre = float(values.mean())
    return Mean(centre, float(centre - half), float(centre + half))


def cost_dict(cost: Cost) -> dict[str, int | float]:
    """A cost by what it was spent on; means over prompts may be no whole numbers."""

    def number(value: Any) -> int | float:
        return int(value) if float(value).is_integer() else float(value)

    return {
        "network_passes": number(cost.network_passes),
        "solver_steps_papers_nfe": number(cost.solver_steps),
        "decodes": number(cost.decodes),
        "verifier_calls": number(cost.verifier_calls),
        "backward_passes": number(cost.backward_passes),
    }


def record(
    index: int, identity: int, prompt: str, scores: Mapping[str, Scores], **rest: Any
) -> dict[str, Any]:
    """The record of the prompt at place `index`."""
    return {
        "id": identity,
        "prompt": prompt,
        "scores": {
            name: {
                "role": entry.role,
                "plain": finite(entry.plain[index]),
                "found": finite(entry.found[index]),
            }
            for name, entry in scores.items()
        },
        **rest,
    }


def summary_of_scores(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Means with intervals, by verifier."""

    def interval(values: np.ndarray) -> dict[str, float | None]:
        return {key: finite(value) for key, value in mean_of(values)._asdict().items()}

    return {
        name: {
            "role": entry.role,
            "plain": interval(entry.plain),
            "found": interval(entry.found),
            "gain": interval(_difference(entry.found, entry.plain)),
        }
        for name, entry in scores.items()
    }


def _difference(found: np.ndarray, plain: np.ndarray) -> np.ndarray:
    both = np.isfinite(found) & np.isfinite(plain)
    return np.subtract(found, plain, out=np.full(found.shape, np.nan), where=both)


def finite(value: float) -> float | None:
    """A number as JSON can hold it: `None` where it is not finite."""
    return float(value) if math.isfinite(value) else None


def read_lines(path: Path, what: str) -> list[dict[str, Any]]:
    """The records that `write_lines` wrote.

    Raises:
        UserError: if they cannot be read or one is damaged.
    """
    records = []
    for number, line in enumerate(read_text(path, what).split("\n"), 1):
        try:
            record = json.loads(line) if line else {}
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path} is damaged at line {number}: it is no record")
        records += [record] if record else []
    return records


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes JSON lines."""
    write_atomic(path, "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in records))
