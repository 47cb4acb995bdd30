"""What a sweep's file stands for: its points, its units and their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jaxsearch.runs.errors import UserError
from jaxsearch.sweeps.grid import label, read_sweep
from jaxsearch.sweeps.units import units_of
from tests.sweeps.small import BASE, GRID, NUM_UNITS, written


def points(tmp_path: Path, **entries: Any):
    return read_sweep(written(tmp_path / "sweep.yaml", **entries)).points


def ids(tmp_path: Path, **entries: Any) -> list[str]:
    return [unit.id for unit in units_of(read_sweep(written(tmp_path / "s.yaml", **entries)))]


def test_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = points(tmp_path, grid={"seed": [3, 1], "solver.churn": [0, 40]})
    assert [(p.config.seed, p.config.solver.settings["churn"]) for p in found] == [
        (3, 0.0), (3, 40.0), (1, 0.0), (1, 40.0),
    ]  # fmt: skip
    assert found[1].varied == {"seed": 3, "solver.churn": 40}
    assert label(found[1].varied) == "seed=3 solver.churn=40"


def test_settings_of_parts_that_the_grid_names_too(tmp_path: Path) -> None:
    """Kills: a setting written into the alternative itself, which then says what it is not."""
    grid = {
        "searcher": [{"name": "zero_order", "iterations": 2}, "zero_order"],
        "searcher.neighbours": [3, 5],
        "verifiers.compressibility.quality": [50, 90],
    }
    found = points(tmp_path, grid=grid)
    assert [
        (
            p.config.searcher.settings["iterations"],
            p.config.searcher.settings["neighbours"],
            p.config.report[0].settings["quality"],
        )
        for p in found
    ] == [(i, n, q) for i in (2, 20) for n in (3, 5) for q in (50, 90)]
    assert found[0].varied["searcher"] == {"name": "zero_order", "iterations": 2}
    assert label({"searcher": {"name": "beam", "width": 2}}) == "searcher=beam(width=2)"


def test_lists_of_grids_are_united_and_counted_once(tmp_path: Path) -> None:
    plain = {"searcher": ["best_of_n"], "searcher.candidates": [1, 4]}
    found = points(tmp_path, grid=[plain, {**plain, "searcher.candidates": [4, 8]}])
    assert [p.config.searcher.settings["candidates"] for p in found] == [1, 4, 8]
    assert len(points(tmp_path, grid={})) == 1


def test_prompts_guides_budgets_and_models_may_vary(tmp_path: Path) -> None:
    grid = {
        "prompts": [["1"], ["1", "2"]],
        "guide": ["brightness", ["brightness", "classifier"]],
        "budget": [None, 900],
        "model.conditional": [True],
    }
    found = points(tmp_path, grid=grid)
    assert len(found) == 8
    assert found[0].config.prompts == ("1",)
    assert [len(p.config.guide) for p in found[:4]] == [1, 1, 2, 2]
    assert [(p.config.budget, p.free) for p in found[:2]] == [(None, None), (900, "iterations")]
    assert all(p.config.model.settings["conditional"] for p in found)


def test_ids_hang_on_what_is_searched_and_on_nothing_else(tmp_path: Path) -> None:
    """Kills: an id with a place in a list, or with how a default was written."""
    first = ids(tmp_path)
    assert len(set(first)) == len(first) == NUM_UNITS
    assert all(len(name) == 16 for name in first)
    # The other way round, defaults spelled out, one more seed: the same units and new ones.
    spelled = {**BASE["schedule"], "rho": 7.0}
    grid = {"searcher": GRID["searcher"][::-1], "seed": [5, 1, 0]}
    more = ids(tmp_path, schedule=spelled, grid=grid)
    assert set(more) > set(first)
    assert len(more) == 12
    # One more prompt behind: what was a unit stays one, the last is filled up.
    longer = ids(tmp_path, prompts=[*BASE["prompts"], "7"])
    assert len(set(first) & set(longer)) == NUM_UNITS // 2
    # What comes before decides how often a prompt was asked for, and so on its noise.
    other = ids(tmp_path, prompts=["5", "5", "3"])
    assert not set(first) & set(other)
    for change in ({"microbatch": 1}, {"seed": 4, "grid": {}}, {"unit_prompts": 3}):
        assert not set(first) & set(ids(tmp_path, **change))


def test_units_are_of_one_size(tmp_path: Path) -> None:
    sweep = read_sweep(written(tmp_path / "s.yaml", grid={}, prompts=["1"] * 5))
    assert [(u.begin, u.end, u.rows) for u in units_of(sweep)] == [(0, 2, 2), (2, 4, 2), (4, 5, 2)]
    sweep = read_sweep(written(tmp_path / "s.yaml", grid={}, unit_prompts=64))
    assert [(u.begin, u.end, u.rows) for u in units_of(sweep)] == [(0, 3, 3)]


MISTAKES = {
    "alternatives": ({"grid": {"seed": 3}}, "seed in the grid is 3: give a list"),
    "none": ({"grid": {"seed": []}}, "seed in the grid is []"),
    "no grid": ({"grid": 3}, "grid is 3"),
    "a setting": ({"grid": {"searcher.widht": [3]}}, "no setting 'widht'"),
    "a part": ({"grid": {"sercher": ["beam"]}}, "did you mean searcher"),
    "no part": ({"grid": {"seed.x": [3]}}, "seed is {'x': 3}"),
    "seed": ({"grid": {"seed": [-1]}}, "seed is -1: it must lie in [0, 4294967295] (at seed=-1)"),
    "seed text": ({"grid": {"seed": ["a"]}}, "seed is 'a': pass a whole number"),
    "value": ({"grid": {"solver.churn": ["much"]}}, "churn is 'much'"),
    "unit": ({"unit_prompts": 0}, "unit_prompts is 0"),
    "keep": ({"keep": ["pictures"]}, "keep has an unknown entry 'pictures'"),
    "output": ({"output": "x"}, "unknown entry 'output'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(tmp_path: Path, name: str) -> None:
    entries, message = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        points(tmp_path, **entries)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
