"""A run in the folders of a benchmark, by the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from jaxsearch import cli
from jaxsearch.runs import layouts

RECORDS = [
    {"tag": "single_object", "include": [{"class": "three", "count": 1}], "prompt": "3"},
    {"tag": "counting", "include": [{"class": "five", "count": 2}], "prompt": "5"},
]
SMALL = [
    "--searcher", "best_of_n", "--searcher.candidates", "2", "--schedule.num_steps", "3",
    "--guide", "brightness", "--report", "--model.enlarge", "1", "--quiet",
]  # fmt: skip


def search(folder: Path, *prompts: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_use_compilation_cache", lambda folder: None)
        arguments = ["search", *SMALL, "--prompts", *prompts, "--num-prompts", "4"]
        assert cli.main([*arguments, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts with GenEval's records, twice each."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return search(folder / "run", f"@{path}")


def export(run: Path, output: Path, layout: str = "geneval") -> int:
    return cli.main(["export", str(run), "--layout", layout, "--output", str(output)])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def picture(run: Path, kind: str, place: int) -> bytes:
    return (run / "images" / f"{kind}_{place:04d}.png").read_bytes()


def test_records_hold_what_the_file_said(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert [line["metadata"] for line in lines] == RECORDS * 2


def test_geneval(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kills: plain for found; pictures that are made anew; a prompt's samples at another's."""
    before = contents(run)
    output = tmp_path / "deep" / "out"
    assert export(run, output) == 0
    assert capsys.readouterr().out == f"{output}: found and plain, 2 prompts, 2 samples of each\n"
    found = contents(output)
    wanted = {}
    for kind in ("found", "plain"):
        for number, record in enumerate(RECORDS):
            where = f"{kind}/{number:05d}"
            assert json.loads(found.pop(f"{where}/metadata.jsonl")) == record
            for repeat in (0, 1):
                place = number + 2 * repeat
                wanted[f"{where}/samples/{repeat:04d}.png"] = picture(run, kind, place)
    assert found == wanted
    assert len(set(wanted.values())) > 4  # or no test of which is which
    assert contents(run) == before
    assert list((tmp_path / "deep").iterdir()) == [output]


def test_t2i_compbench(run: Path, tmp_path: Path) -> None:
    assert export(run, tmp_path / "out", "t2i-compbench") == 0
    assert contents(tmp_path / "out") == {
        f"{kind}/samples/{prompt}_{number:06d}.png": picture(run, kind, place)
        for kind in ("found", "plain")
        for number, (prompt, place) in enumerate([("3", 0), ("3", 2), ("5", 1), ("5", 3)])
    }


def test_a_run_that_read_no_records_has_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: bytes of runs that change where nothing is said of prompts; another result by it."""
    alone = search(tmp_path / "alone", "3", "5")
    assert b"metadata" not in (alone / "records.jsonl").read_bytes()
    assert yaml.safe_load((alone / "config.yaml").read_text())["prompts"] == ["3", "5"] * 2
    assert (alone / "recipes.jsonl").read_bytes() == (run / "recipes.jsonl").read_bytes()
    capsys.readouterr()
    assert export(alone, tmp_path / "out") == 2
    assert "the prompt '3' has no 'tag' of GenEval" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [alone]
    assert export(alone, tmp_path / "out", "t2i-compbench") == 0


def _changed(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "is no run folder"),
        (lambda run: (run / "summary.json").unlink(), "did not finish: go on with `jaxsearch"),
        (lambda run: (run / "records.jsonl").unlink(), "cannot read the records"),
        (lambda run: (run / "records.jsonl").write_text(""), "records.jsonl is damaged: it is emp"),
        (lambda run: _changed(run / "records.jsonl", lambda text: text[:-9]), "damaged at line 4"),
        (
            lambda run: _changed(
                run / "records.jsonl", lambda text: text.replace('"prompt"', '"x"', 1)
            ),
            "damaged at line 1: it is no record",
        ),
        (lambda run: (run / "images" / "plain_0003.png").unlink(), "plain_0003.png: it is missing"),
        (
            lambda run: (run / "images" / "found_0001.png").write_bytes(b"no picture"),
            "found_0001.png: it is missing or damaged",
        ),
        (
            lambda run: (run / "images" / "found_0001.png").write_bytes(
                picture(run, "found", 1)[:60] + b"!" + picture(run, "found", 1)[61:]
            ),
            "found_0001.png: it is missing or damaged",
        ),
    ],
)
def test_a_damaged_run_is_named_and_leaves_nothing(
    run: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    damage(copied)
    assert export(copied, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [copied]


def test_what_is_there_is_not_touched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    refused = {
        tmp_path / "full": "is not empty",
        tmp_path / "full" / "mine.txt": "cannot use",
        run: "is not empty",
    }
    for output, message in refused.items():
        assert export(run, output) == 2
        assert message in capsys.readouterr().err
    assert contents(tmp_path) == {"full/mine.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    assert export(run, tmp_path / "empty") == 0
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o755


def test_an_interruption_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a folder that looks whole, and is not."""
    write, written = layouts._write, []

    def interrupted(path: Path, content: bytes) -> None:
        write(path, content)
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "_write", interrupted)
    assert export(run, tmp_path / "out") == 130
    assert list(tmp_path.iterdir()) == []


def test_requests_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        ("nothing", "--layout", "geneval", "--output", "out"): "nothing is no run folder",
        ("run", "--layout", "coco", "--output", "out"): "invalid choice: 'coco'",
        ("run", "--layout", "geneval"): "required: --output",
    }.items():
        assert cli.main(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert cli.main(["export", "--help"]) == 0
    assert "t2i-compbench" in capsys.readouterr().out
