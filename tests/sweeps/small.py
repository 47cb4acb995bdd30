"""A sweep small enough for every test: two searchers, two seeds, three prompts in units of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

BASE: dict[str, Any] = {
    "model": {"name": "digits", "enlarge": 1},
    "schedule": {"name": "karras", "num_steps": 4},
    "guide": "brightness",
    "report": ["compressibility"],
    "prompts": ["3", "5", "3"],
    "unit_prompts": 2,
}
GRID = {
    "seed": [0, 1],
    "searcher": [
        {"name": "best_of_n", "candidates": 2},
        {"name": "zero_order", "neighbours": 2, "iterations": 2},
    ],
}
NUM_UNITS = 8


def written(path: Path, **entries: Any) -> Path:
    """The file of the sweep, with other entries."""
    path.write_text(yaml.safe_dump({**BASE, "grid": GRID, **entries}, sort_keys=False))
    return path
