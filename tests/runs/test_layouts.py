"""The folders of benchmarks, walked as their evaluators walk them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from jaxsearch.runs.errors import UserError
from jaxsearch.runs.layouts import LAYOUTS, described, geneval, t2i_compbench, write_layout
from jaxsearch.runs.prompt_files import Prompt


def record(text: str, count: int = 1) -> Prompt:
    include = [{"class": "cow", "count": count}]
    return Prompt(text, {"tag": "counting", "include": include, "prompt": text})


def written(folder: Path, layout: str, samples: Sequence[Prompt]) -> None:
    """The samples, each with its place in the list for a picture."""
    pictures = (f"{place}".encode() for place in range(len(samples)))
    write_layout(folder, LAYOUTS[layout](samples), pictures)


def seen_by_geneval(folder: Path) -> Iterator[tuple[int, dict, list[int]]]:
    """What its evaluator sees: all of `samples` in each folder that is a number, one record."""
    for one in sorted(folder.iterdir()):
        assert one.name.isdigit()
        names = sorted((one / "samples").iterdir())
        assert [path.name for path in names] == [f"{n:04d}.png" for n in range(len(names))]
        metadata = json.loads((one / "metadata.jsonl").read_text())
        yield int(one.name), metadata, [int(path.read_bytes()) for path in names]


def test_geneval_has_a_folder_for_each_prompt(tmp_path: Path) -> None:
    """Kills: a folder for each sample; samples beside another's record; another order."""
    two, one, red = record("two cows", 2), record("a cow"), record("a red cow")
    written(tmp_path / "out", "geneval", [two, one, two, red, one, two])
    assert list(seen_by_geneval(tmp_path / "out")) == [
        (0, two.metadata, [0, 2, 5]),
        (1, one.metadata, [1, 4]),
        (2, red.metadata, [3]),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000", "00001", "00002"]
    assert {path.name for path in (tmp_path / "out" / "00000").iterdir()} == {
        "samples",
        "metadata.jsonl",
    }


def test_geneval_tells_records_apart_and_not_prompts(tmp_path: Path) -> None:
    """Kills: samples of two records of one prompt that are judged by the first."""
    written(tmp_path / "out", "geneval", [record("cows", 1), record("cows", 2)])
    assert [places for _, _, places in seen_by_geneval(tmp_path / "out")] == [[0], [1]]


def seen_by_compbench(folder: Path) -> list[tuple[int, str, int]]:
    """What its evaluators see: of each name the number, by which they sort, and the prompt."""
    assert [path.name for path in folder.iterdir()] == ["samples"]
    found = []
    for path in (folder / "samples").iterdir():
        text, number = path.name.split("_")
        assert len(number.split(".")[0]) == 6
        assert number.endswith(".png")
        found.append((int(number.split(".")[0]), text, int(path.read_bytes())))
    return sorted(found)


def test_compbench_numbers_the_samples_of_a_prompt_one_after_the_other(tmp_path: Path) -> None:
    """Kills: numbers in the order of the run, or anew for each prompt."""
    cow, cup = Prompt("a cow. and a calf"), record("a red cup")
    written(tmp_path / "out", "t2i-compbench", [cow, cup, cow, cup])
    assert seen_by_compbench(tmp_path / "out") == [
        (0, cow.text, 0),
        (1, cow.text, 2),
        (2, cup.text, 1),
        (3, cup.text, 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b", "has '/' in it"),
        ("a_b", "has '_' in it"),
        ("a\0b", r"has '\x00' in it"),
        ("the file a.png", "has '.png' in it"),
        ("ä" * 123, "257 bytes of at most 255"),
    ],
)
def test_a_prompt_that_no_name_can_hold_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        t2i_compbench([Prompt("a cow"), Prompt(text)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    """Kills: a temporary name that is longer than what file systems take."""
    written(tmp_path, "t2i-compbench", [Prompt("x" * 244)])
    assert seen_by_compbench(tmp_path) == [(0, "x" * 244, 0)]


@pytest.mark.parametrize("metadata", [None, {"Category": "Animals", "prompt": "x"}])
def test_geneval_needs_its_record(metadata: dict | None) -> None:
    with pytest.raises(UserError, match=r"'a cow' has no 'tag' of GenEval: search with"):
        geneval([record("two cows"), Prompt("a cow", metadata)])


def test_nothing_is_overwritten_and_none_is_missing(tmp_path: Path) -> None:
    layout = t2i_compbench([Prompt("a"), Prompt("b")])
    with pytest.raises(ValueError, match="shorter"):
        write_layout(tmp_path / "few", layout, [b"0"])
    write_layout(tmp_path / "out", layout, [b"0", b"1"])
    with pytest.raises(FileExistsError):
        write_layout(tmp_path / "out", layout, [b"2", b"3"])
    assert [content for _, _, content in seen_by_compbench(tmp_path / "out")] == [0, 1]


def test_what_is_said_of_samples() -> None:
    assert described([Prompt("a"), Prompt("b")] * 4) == "2 prompts, 4 samples of each"
    assert described([Prompt("a"), Prompt("b"), Prompt("a")]) == "2 prompts, 1 to 2 samples of each"
