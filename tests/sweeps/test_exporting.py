"""A sweep over prompts of which a file says more, and its pictures in a benchmark's folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jaxsearch import cli
from jaxsearch.sweeps.grid import read_sweep
from jaxsearch.sweeps.units import units_of
from tests.sweeps.small import written

RECORDS = [{"tag": "counting", "prompt": text, "place": place} for place, text in enumerate("353")]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two searchers and two seeds over three records, the first and last of one prompt."""
    folder = tmp_path_factory.mktemp("sweep")
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    file = written(folder / "sweep.yaml", prompts=f"@{path}", keep="images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_use_compilation_cache", lambda folder: None)
        assert cli.main(["sweep", str(file), "--output", str(folder / "sweep"), "--quiet"]) == 0
    return folder / "sweep"


def export(sweep: Path, output: Path, layout: str = "geneval") -> int:
    return cli.main(["export", str(sweep), "--layout", layout, "--output", str(output)])


def test_records_hold_what_the_file_said(sweep: Path) -> None:
    table = pq.read_table(sweep / "records.parquet").to_pydict()
    names = list(table)
    assert names.index("metadata") == names.index("prompt") + 1
    for place, text, metadata in zip(
        table["place"], table["prompt"], table["metadata"], strict=True
    ):
        assert json.loads(metadata) == RECORDS[place]
        assert text == RECORDS[place]["prompt"]


def test_each_point_has_the_samples_of_its_seeds(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: a folder for each seed; samples of other points, or of one record at another's."""
    output = tmp_path / "out"
    assert export(sweep, output) == 0
    assert "2 points, as points.json lists them, 2 prompts" in capsys.readouterr().out
    points = json.loads((output / "points.json").read_text())
    assert sorted(points) == ["point_000", "point_001"]
    assert {path.name for path in output.iterdir()} == {*points, "points.json"}
    rows = pq.read_table(sweep / "records.parquet").to_pylist()
    for name, varied in points.items():
        searcher = json.dumps(varied["searcher"])
        own = [row for row in rows if row["searcher"] == searcher]
        assert len(own) == 6
        for place, record in enumerate(RECORDS):
            folder = output / name / f"{place:05d}"
            assert json.loads((folder / "metadata.jsonl").read_text()) == record
            found = [path.read_bytes() for path in sorted((folder / "samples").iterdir())]
            wanted = {row["seed"]: row["image"] for row in own if row["place"] == place}
            assert found == [wanted[0], wanted[1]]
            assert found[0] != found[1]


def test_compbench_of_a_sweep(sweep: Path, tmp_path: Path) -> None:
    assert export(sweep, tmp_path / "out", "t2i-compbench") == 0
    names = sorted(path.name for path in (tmp_path / "out" / "point_001" / "samples").iterdir())
    assert names == [f"{'3' if number < 4 else '5'}_{number:06d}.png" for number in range(6)]


def test_a_sweep_that_is_not_done_or_kept_no_images_is_refused(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "part" / "units").mkdir(parents=True)
    manifest = (sweep / "manifest.json").read_text()
    (tmp_path / "part" / "manifest.json").write_text(manifest)
    assert export(tmp_path / "part", tmp_path / "out") == 2
    assert "0 of 8 units are done: go on with the sweep" in capsys.readouterr().err
    (tmp_path / "part" / "units").rmdir()
    shutil.copytree(sweep / "units", tmp_path / "part" / "units")
    next((tmp_path / "part" / "units").iterdir()).unlink()
    assert export(tmp_path / "part", tmp_path / "out") == 2
    assert "7 of 8 units are done: go on with the sweep" in capsys.readouterr().err
    (tmp_path / "part" / "manifest.json").write_text(manifest.replace('["images"]', "[]"))
    assert export(tmp_path / "part", tmp_path / "out") == 2
    assert "keeps no images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def ids(folder: Path, prompts: object) -> list[str]:
    return [unit.id for unit in units_of(read_sweep(written(folder / "s.yaml", prompts=prompts)))]


def test_units_know_what_was_said_of_their_prompts(tmp_path: Path) -> None:
    """Kills: files of units that hold other metadata, or a column more, under one id."""
    alone = ids(tmp_path, ["3", "5", "3"])
    assert ids(tmp_path, [{"prompt": "3"}, "5", "3"]) == alone
    one = {"prompt": "3", "metadata": {"a": 1}}
    last = ids(tmp_path, ["3", "5", one])
    assert not set(last) & set(alone)  # those before have the column too
    assert not set(ids(tmp_path, ["3", "5", {**one, "metadata": {"a": 2}}])) & set(last[1::2])


def test_points_of_prompts_with_metadata_and_without_are_merged(tmp_path: Path) -> None:
    """Kills: a column that is looked for in the first point alone."""
    records = [{"prompt": "5", "metadata": {"a": 1}}]
    file = written(
        tmp_path / "s.yaml",
        grid={"prompts": [["3"], records]},
        searcher={"name": "best_of_n", "candidates": 1},
        keep=[],
    )
    assert cli.main(["sweep", str(file), "--output", str(tmp_path / "s"), "--quiet"]) == 0
    table = pq.read_table(tmp_path / "s" / "records.parquet").to_pydict()
    assert table["metadata"] == [None, '{"a": 1}']
