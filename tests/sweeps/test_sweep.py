"""Sweeps as a user meets them: what they find, what they leave, and how they go on."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from jaxsearch import cli
from jaxsearch.runs import driving, files
from jaxsearch.runs.images import read_png
from jaxsearch.runs.recipes import read_recipes
from jaxsearch.sweeps import sweep as sweeping
from tests.sweeps.small import BASE, GRID, NUM_UNITS, written

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command: its exit status, and what it wrote to both outputs."""
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing has disturbed."""
    base = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_use_compilation_cache", lambda folder: None)
        file = written(base / "sweep.yaml", keep=["recipes", "images", "curves"])
        assert cli.main(["sweep", str(file), "--output", str(base / "whole")]) == 0
    return base / "whole"


def bytes_of(folder: Path) -> dict[str, bytes]:
    """What a sweep has found, and what it consists of."""
    paths = [*(folder / "units").iterdir(), folder / "records.parquet", folder / "manifest.json"]
    return {path.name: path.read_bytes() for path in paths}


def file_of(whole: Path) -> Path:
    return whole.parent / "sweep.yaml"


def test_records_are_those_of_single_runs(whole: Path, call: Call, tmp_path: Path) -> None:
    """Kills: another seed or searcher than the row says; prompts counted from their unit."""
    records = pandas.read_parquet(whole / "records.parquet")
    assert len(records) == 12
    # By the grid's entries, then by the place of the prompt.
    assert records.seed.tolist() == [0] * 6 + [1] * 6
    assert records.place.tolist() == [0, 1, 2] * 4
    assert records.prompt.tolist() == BASE["prompts"] * 4
    config = {k: v for k, v in BASE.items() if k != "unit_prompts"}
    config |= {"seed": 1, "searcher": GRID["searcher"][1]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    assert call("search", "--config", tmp_path / "run.yaml", "--output", run, "--quiet")[0] == 0
    single = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    swept = records[-3:]
    assert swept.searcher.tolist() == [json.dumps(GRID["searcher"][1])] * 3
    assert swept.prompt_id.tolist() == [one["id"] for one in single]
    for name in ("brightness", "compressibility"):
        found = [one["scores"][name]["found"] for one in single]
        np.testing.assert_allclose(swept[f"score.{name}"], found, atol=1e-6)
    np.testing.assert_allclose(swept.score, swept["score.brightness"])
    for name, spent in single[0]["cost"].items():
        assert swept[name].tolist() == [spent] * 3
    for place, row in enumerate(swept.itertuples()):
        pixels = np.asarray(Image.open(io.BytesIO(row.image)))
        np.testing.assert_array_equal(
            pixels, read_png(run / f"images/found_{place:04d}.png")[..., 0]
        )
        (tmp_path / "one.jsonl").write_text(row.recipe)
        noise, _ = read_recipes(tmp_path / "one.jsonl")
        line = (run / "recipes.jsonl").read_text().splitlines()[place + 1]
        assert row.recipe.splitlines()[1] == line
        assert noise.coefs.shape[:2] == (1, 5)
    assert records["curve.network_passes"][11][-1] == swept.network_passes.iloc[-1]
    assert records["curve.score"][11][-1] == pytest.approx(swept.score.iloc[-1])


def test_files_are_what_they_are_said_to_be(whole: Path, call: Call) -> None:
    assert set(os.listdir(whole)) == {
        "manifest.json", "versions.json", "units", "logs", "locks", "records.parquet",
        "units.parquet",
    }  # fmt: skip
    assert len(os.listdir(whole / "units")) == NUM_UNITS
    units = polars.read_parquet(whole / "units.parquet")
    assert units["rows"].to_list() == [2, 1] * 4
    assert (units["seconds"] > 0).all()
    records = polars.read_parquet(whole / "records.parquet")
    assert units["network_passes"].sum() == records["network_passes"].sum()
    assert json.loads(units["config"][0])["searcher"]["candidates"] == 2
    status, out, _ = call("status", whole)
    assert status == 0
    assert "8 of 8 units done, 0 saved in the middle, 0 failed: complete" in out
    mean = records.filter(records["searcher"].str.contains("best_of_n"))["score"].mean()
    line = next(line for line in out.splitlines() if "best_of_n" in line)
    assert f"4/4  {mean:.3f} ± " in " ".join(line.split()).replace("4/4 ", "4/4  ")


def test_any_division_among_processes_gives_the_same_bytes(
    whole: Path, call: Call, tmp_path: Path
) -> None:
    """Kills: a unit that two processes have, or none; bytes that hang on who has searched it."""
    folder, file = tmp_path / "shared", file_of(whole)
    status, out, _ = call("sweep", file, "--output", folder, "--process", 2, "--processes", 3)
    assert (status, out) == (0, "")  # the first process speaks for all
    assert len(os.listdir(folder / "units")) == 2
    status, out, _ = call("sweep", file, "--output", folder, "--process", 0, "--processes", 3)
    assert "5 of 8 units done" in out
    assert call("merge", folder)[0] == 2
    # The rest in one process, as after a change of machines.
    assert call("sweep", file, "--output", folder, "--quiet")[0] == 0
    assert bytes_of(folder) == bytes_of(whole)


def test_processes_without_a_common_disk(whole: Path, call: Call, tmp_path: Path) -> None:
    folders = [tmp_path / f"disk{index}" for index in range(2)]
    for index, folder in enumerate(folders):
        share = ("--process", index, "--processes", 2)
        assert call("sweep", file_of(whole), "--output", folder, *share)[0] == 0
    status, _, error = call("merge", *folders[:1])
    assert status == 2
    assert error == (
        "jaxsearch: 4 of 8 units are done: go on with the sweep, or take --partial to merge these\n"
    )
    assert call("merge", *folders, "--output", tmp_path / "merged")[0] == 0
    merged = (tmp_path / "merged" / "records.parquet").read_bytes()
    assert merged == (whole / "records.parquet").read_bytes()
    assert call("merge", folders[1], "--partial")[0] == 0
    assert pq.read_table(folders[1] / "records.parquet").num_rows == 6


def test_what_is_done_is_not_done_again(whole: Path, call: Call, tmp_path: Path) -> None:
    """Kills: a sweep that searches or writes again what is there."""
    folder = tmp_path / "again"
    shutil.copytree(whole, folder)
    lost = sorted((folder / "units").iterdir())[3]
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}
    assert call("sweep", file_of(whole), "--output", folder, "--quiet")[0] == 0
    assert bytes_of(folder) == bytes_of(whole)
    after = {path: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}
    assert after.pop(lost) > 0
    assert after == before
    for path in (folder / "units").iterdir():
        path.write_bytes(b"PAR1")
    (folder / "records.parquet").unlink()
    status, _, error = call("merge", folder)
    assert status == 2
    assert "cannot be read: remove it, and its unit is searched again" in error


class EndError(Exception):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("kind", ["disk", "kill"])
def test_stopped_at_any_write(
    whole: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A full disk, or the end, at each file in turn: it goes on to the same bytes.

    Kills: a unit that counts as done before it is; a file that is there in part.
    """
    folder, real, allowed = tmp_path / "full", os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal allowed
        if not allowed:
            raise OSError(errno.ENOSPC, "full") if kind == "disk" else EndError
        allowed -= 1
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    stops = 0
    while True:
        allowed = 3  # a manifest and versions; then a unit and a half at a time
        try:
            status, _, error = call("sweep", file_of(whole), "--output", folder, "--quiet")
        except EndError:
            status, error = 2, "cannot write: no space left on device"
        if status == 0:
            break
        assert "no space left on device" in error
        stops += 1
        assert stops < 20
        for path in folder.rglob("*.parquet"):
            assert pq.read_table(path).num_rows
    assert stops >= 5
    assert bytes_of(folder) == bytes_of(whole)


def test_a_point_that_cannot_be_searched_stops_no_other(call: Call, tmp_path: Path) -> None:
    """Kills: a sweep that ends at the first refusal, or that says nothing of it."""
    grid = {"searcher": [{"name": "best_of_n", "candidates": 2}, "beam"], "solver.churn": [0, 40]}
    file = written(tmp_path / "s.yaml", grid=grid, prompts=["3"])
    status, out, error = call("sweep", file, "--output", tmp_path / "f")
    assert status == 2
    assert "a unit could not be searched: beam searches the noise injected" in error
    assert "3 of 4 units done, 0 saved in the middle, 1 failed: not at work" in out
    assert "unit " in out.splitlines()[-1]
    assert call("merge", tmp_path / "f", "--partial")[0] == 0


def test_a_budget_chooses_the_size_of_each_point(call: Call, tmp_path: Path) -> None:
    entries: dict[str, Any] = {"prompts": ["3"], "keep": ["images"], "report": []}
    grid = {"searcher": ["best_of_n"], "budget": [14, 35]}
    file = written(tmp_path / "s.yaml", grid=grid, **entries)
    assert call("sweep", file, "--output", tmp_path / "f", "--quiet")[0] == 0
    records = pandas.read_parquet(tmp_path / "f" / "records.parquet")
    assert records.network_passes.tolist() == [14, 35]  # 7 each
    assert {"image", "recipe", "curve.score"} & set(records.columns) == {"image"}
    sizes = pandas.read_parquet(tmp_path / "f" / "units.parquet").config.map(json.loads)
    assert [one["searcher"]["candidates"] for one in sizes] == [2, 5]


def test_numbers_of_a_grid_share_a_program(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a program for each value of a continuous setting, or for each seed."""
    from jaxsearch.core import search

    compiled = search._advance._cache_size()
    grid = {"searcher.step": [0.3, 0.6, 0.9], "seed": [0, 1]}
    entries: dict[str, Any] = {"prompts": ["3"], "keep": [], "report": []}
    searcher = {"name": "zero_order", "neighbours": 3, "iterations": 1}
    file = written(tmp_path / "s.yaml", grid=grid, searcher=searcher, **entries)
    assert call("sweep", file, "--output", tmp_path / "f", "--quiet")[0] == 0
    assert search._advance._cache_size() == compiled + 1
    assert pandas.read_parquet(tmp_path / "f" / "records.parquet").score.nunique() > 3


def test_weights_are_read_once_and_programs_built_once(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a look at a unit that is done, which sends back to the shop for what it needed."""
    made: list[str] = []
    load, build = sweeping.components.build, sweeping.build

    def loading(kind: str, *rest: Any) -> Any:
        made.append(kind)
        return load(kind, *rest)

    def building(*arguments: Any, **settings: Any) -> Any:
        made.append("program")
        return build(*arguments, **settings)

    monkeypatch.setattr(sweeping.components, "build", loading)
    monkeypatch.setattr(sweeping, "build", building)
    file = written(tmp_path / "s.yaml", keep=[], report=[])
    assert call("sweep", file, "--output", tmp_path / "f", "--quiet")[0] == 0
    assert made.count("model") == 1
    assert made.count("verifier") == 1
    assert made.count("program") == 2


def test_units_in_common_are_searched_once_and_stand_under_each_point(
    call: Call, tmp_path: Path
) -> None:
    """Kills: rows of one point that are credited to another."""
    grid = {"num_prompts": [2, 4]}
    searcher = {"name": "best_of_n", "candidates": 2}
    entries: dict[str, Any] = {"prompts": ["3", "7", "0", "1"], "keep": [], "report": []}
    file = written(tmp_path / "s.yaml", grid=grid, searcher=searcher, **entries)
    status, out, _ = call("sweep", file, "--output", tmp_path / "f")
    assert status == 0
    assert "2 of 2 units done" in out
    records = pandas.read_parquet(tmp_path / "f" / "records.parquet")
    assert records.num_prompts.tolist() == [2, 2, 4, 4, 4, 4]
    assert records.place.tolist() == [0, 1, 0, 1, 2, 3]
    assert records.score[:2].tolist() == records.score[2:4].tolist()
    assert pandas.read_parquet(tmp_path / "f" / "units.parquet").rows.tolist() == [2, 2, 2]


def test_what_is_damaged_stops_no_other(
    whole: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a sweep that ends at a checkpoint it cannot read, or at a unit that does not fit."""
    folder = tmp_path / "damaged"
    file = written(tmp_path / "sweep.yaml", keep=["recipes", "images", "curves"])
    for unit in pandas.read_parquet(whole / "units.parquet").unit[2:4]:
        (folder / "checkpoints" / unit / "3").mkdir(parents=True)
        (folder / "checkpoints" / unit / "3" / "junk").write_text("junk")
    (folder / "locks").mkdir()
    status, _, error = call("sweep", file, "--output", folder, "--quiet")
    assert status == 0
    assert error.count("begins again: the checkpoint") == 2
    assert bytes_of(folder) == bytes_of(whole)
    (folder / "checkpoints" / "0123").mkdir(parents=True, exist_ok=True)
    assert "0 saved in the middle" in call("status", folder)[1]

    def never(self: driving.Program) -> str:
        raise RuntimeError("RESOURCE_EXHAUSTED: not even one particle fits")

    real, calls = driving.jax.block_until_ready, 0

    def full(state: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: 1 TiB")
        return real(state)

    monkeypatch.setattr(driving.Program, "halve", never)
    monkeypatch.setattr(driving.jax, "block_until_ready", full)
    status, out, error = call("sweep", file, "--output", tmp_path / "full")
    assert status == 2
    assert "a unit could not be searched: RESOURCE_EXHAUSTED: not even one particle fits" in error
    assert "7 of 8 units done, 0 saved in the middle, 1 failed" in out


def test_a_model_may_be_added(whole: Path, call: Call, tmp_path: Path) -> None:
    """Kills: files that were never there taken for changed ones."""
    folder = tmp_path / "more"
    shutil.copytree(whole, folder)
    notes = json.loads((folder / "versions.json").read_text())
    removed = notes["files"].popitem()
    (folder / "versions.json").write_text(json.dumps(notes))
    assert call("sweep", file_of(whole), "--output", folder, "--quiet")[0] == 0
    assert removed[0] in json.loads((folder / "versions.json").read_text())["files"]
    notes["files"] = {name: "another" for name in notes["files"]}
    (folder / "versions.json").write_text(json.dumps(notes))
    status, _, error = call("sweep", file_of(whole), "--output", folder, "--quiet")
    assert status == 2
    assert "is not what it was when this run began" in error


def test_dry_run_writes_nothing(whole: Path, call: Call, tmp_path: Path) -> None:
    status, out, _ = call("sweep", file_of(whole), "--output", tmp_path / "f", "--dry-run")
    assert status == 0
    assert "4 points, 8 units, 0 of them done" in out
    assert not (tmp_path / "f").exists()
    out = call("sweep", file_of(whole), "--output", whole, "--dry-run")[1]
    assert "8 of them done" in out


MISTAKES = {
    "no file": (["nowhere.yaml"], "cannot read the config file nowhere.yaml"),
    "half a share": (["{file}", "--process", "1"], "--process and --processes go together"),
    "share": (["{file}", "--process", "2", "--processes", "2"], "process is 2 of 2: they are numb"),
    "seconds": (["{file}", "--checkpoint-seconds", "-1"], "checkpoint_seconds is -1"),
    "devices": (["{file}", "--devices", "9"], "devices is 9: this machine has 8"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(whole: Path, call: Call, tmp_path: Path, name: str) -> None:
    words, message = MISTAKES[name]
    arguments = [word.format(file=file_of(whole)) for word in words]
    status, _, error = call("sweep", *arguments, "--output", tmp_path / "f")
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "f").exists()
