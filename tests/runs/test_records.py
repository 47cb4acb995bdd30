"""Means, intervals and lines."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jaxsearch.core.types import Cost
from jaxsearch.runs.records import (
    Scores,
    cost_dict,
    mean_of,
    record,
    summary_of_scores,
    write_lines,
)


def test_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert mean_of(values) == pytest.approx((values.mean(), low, high))


def test_interval_covers_what_it_says() -> None:
    draws = np.random.default_rng(1).normal(2.0, 3.0, size=(2000, 5))
    hits = [low <= 2.0 <= high for _, low, high in map(mean_of, draws)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)  # 3 standard errors


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = mean_of(np.array([3.0, math.nan]))
    assert one.mean == 3.0
    assert math.isnan(one.low)
    assert math.isnan(mean_of(np.array([-math.inf])).mean)


def test_gain_is_paired_and_failed_scores_are_null(tmp_path: Path) -> None:
    scores = {
        "guide_one": Scores("guide", np.array([0.1, 0.2, np.nan]), np.array([0.6, 0.7, 0.9])),
        "other": Scores("report", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, -np.inf])),
    }
    summary = summary_of_scores(scores)
    assert summary["guide_one"]["gain"]["mean"] == pytest.approx(0.5)
    assert summary["guide_one"]["gain"]["low"] == pytest.approx(0.5)
    assert summary["other"]["gain"]["mean"] == 0.0
    write_lines(tmp_path / "r", [record(i, i + 5, "cat", scores, extra=1) for i in range(3)])
    lines = [json.loads(line) for line in (tmp_path / "r").read_text().splitlines()]
    assert lines[2]["scores"]["guide_one"] == {"role": "guide", "plain": None, "found": 0.9}
    assert lines[2]["scores"]["other"]["found"] is None
    assert (lines[1]["id"], lines[1]["prompt"], lines[1]["extra"]) == (6, "cat", 1)


def test_cost_names_what_it_counts() -> None:
    assert cost_dict(Cost(35, 18, 1, 2)) == {
        "network_passes": 35,
        "solver_steps_papers_nfe": 18,
        "decodes": 1,
        "verifier_calls": 2,
        "backward_passes": 0,
    }
    assert cost_dict(Cost(35, 18, 1, 2, 20))["backward_passes"] == 20
    assert cost_dict(Cost(np.float64(1.5), 2, 3, 4))["network_passes"] == 1.5
