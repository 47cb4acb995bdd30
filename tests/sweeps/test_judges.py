"""Sweeps whose units ask graders, by a service on this machine."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet as pq
import pytest
import yaml

import jaxsearch
from jaxsearch import cli
from tests.graders.service import Asked, Reply, Service, served
from tests.runs.test_grading import graded, question
from tests.sweeps.small import BASE
from tests.sweeps.test_sweep import bytes_of

CANDIDATES, PROMPTS = 4, 3
POINTS = {"searcher": [{"name": "best_of_n", "candidates": CANDIDATES},
                       {"name": "zero_order", "neighbours": 2, "iterations": 2}]}  # fmt: skip


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)


def written(service: Service, cap: dict[str, Any] | None = None, **entries: Any) -> None:
    """The file of a sweep that `brightness` and a grader guide."""
    who = {"url": service.url, "model": "critic", "backoff": 0.0, "price": [1000.0, 1000.0]}
    content = {
        **BASE, "guide": ["brightness", "five_aspects"], "grader_fraction": 0.5, "report": [],
        "verifiers": {"five_aspects": {**who, **(cap or {})}}, "grid": POINTS, **entries,
    }  # fmt: skip
    Path("sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def sweep(folder: str, *arguments: str) -> int:
    return cli.main(["sweep", "sweep.yaml", "--output", folder, "--quiet", *arguments])


def records(folder: str, name: str = "records") -> list[dict[str, Any]]:
    return pq.read_table(Path(folder) / f"{name}.parquet").to_pylist()


def accounts(folder: str) -> list[dict[str, Any]]:
    """What each unit has asked."""
    return [json.loads(row["graders"])["five_aspects"] for row in records(folder, "units")]


def test_units_ask_what_a_run_asks() -> None:
    """By one process, by two, and by a run. Kills: rows that only fill a unit up and are asked
    about; columns in another order than the guides; a picture that two units have and is sent
    twice; another fraction.
    """
    with served(lambda number, asked: graded(asked)) as service:
        written(service, grid={"searcher": ["best_of_n"], "searcher.candidates": [4, 2]})
        assert sweep("one") == 0
        one = collections.Counter(map(question, service.asked))
        service.asked.clear()
        for process in ("1", "0"):
            assert sweep("two", "--process", process, "--processes", "2") == 0
        assert collections.Counter(map(question, service.asked)) == one
        service.asked.clear()
        run = ["--config", "run.yaml", "--output", "run", "--quiet"]
        config = yaml.safe_load(Path("sweep.yaml").read_text())
        del config["unit_prompts"], config["grid"]
        config["searcher"] = {"name": "best_of_n", "candidates": CANDIDATES}
        Path("run.yaml").write_text(yaml.safe_dump(config))
        assert cli.main(["search", *run]) == 0
    assert set(one.values()) == {1}
    assert bytes_of(Path("one")) == bytes_of(Path("two"))
    found = [row for row in records("one") if row["searcher.candidates"] == CANDIDATES]
    assert [row["verifier_calls"] for row in found] == [CANDIDATES * 1.5] * PROMPTS
    lines = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    for row, line in zip(found, lines, strict=True):
        assert row["score.five_aspects"] == pytest.approx(100 * row["score.brightness"], abs=0.3)
        for name in ("brightness", "five_aspects"):
            wanted = pytest.approx(line["scores"][name]["found"], rel=1e-6)
            assert row[f"score.{name}"] == wanted
    asked = accounts("one")
    assert sum(one["attempts"] for one in asked) == len(one)
    assert sum(one["cost"] for one in asked) == pytest.approx(1.01 * len(one))
    assert sum(one["kept"] for one in asked) > 0  # of candidates that both points have
    assert not any(one["failed"] for one in asked)


def test_one_that_reports_is_asked_about_what_is_found() -> None:
    with served(lambda number, asked: graded(asked)) as service:
        written(service, guide="brightness", report=["five_aspects", "compressibility"],
                grader_fraction=1.0)  # fmt: skip
        assert sweep("out") == 0
        assert len(service.asked) <= 2 * PROMPTS
        Path("sweep.yaml").write_text(Path("sweep.yaml").read_text().replace("critic", "critics"))
        assert sweep("out") == 2  # another model is another sweep
        assert len(service.asked) <= 2 * PROMPTS
    for row in records("out"):
        assert row["score.five_aspects"] == pytest.approx(100 * row["score.brightness"], abs=0.3)
        assert row["score.compressibility"] is not None


@pytest.mark.parametrize("role", ["guide", "report"])
def test_a_cap_stops_the_sweep_and_a_higher_one_goes_on(
    role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the same bytes. Kills: units with failures where a cap was reached; a cap that begins anew
    or is that of a unit; a search that begins anew; a higher cap taken for another sweep.
    """
    entries: dict[str, Any] = {"grader_fraction": 1.0, "keep": ["recipes", "images", "curves"]}
    if role == "report":
        entries |= {"guide": "brightness", "report": ["five_aspects"]}
    with served(lambda number, asked: graded(asked)) as service:
        written(service, **entries)
        assert sweep("whole") == 0
        num = len(service.asked)
        service.asked.clear()
        for cap in (3, num - 1):
            written(service, {"max_cost": 1.01 * cap + 0.1}, **entries)
            assert sweep("out") == 2
            line = capsys.readouterr().err.strip().splitlines()[-1]
            assert "five_aspects: the cap of" in line
            assert "raise it in the sweep's file, and the same command goes on" in line
            assert len(service.asked) == cap
            assert not Path("out/records.parquet").exists()
        written(service, {"max_cost": 1000.0}, **entries)
        assert sweep("out") == 0
        assert collections.Counter(map(question, service.asked)).most_common(1)[0][1] == 1
        assert len(service.asked) == num
    found, wanted = (bytes_of(Path(name)) for name in ("out", "whole"))
    assert found.pop("manifest.json") != wanted.pop("manifest.json")  # which says the cap
    assert found == wanted
    assert sum(one["attempts"] for one in accounts("out")) == num
    assert not any(one["failed"] for one in accounts("out"))


def test_a_service_that_answers_nothing_stops_its_units(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of points without it are searched, and the same command goes on with the others."""
    well = False

    def answer(number: int, asked: Asked) -> Reply:
        return graded(asked) if well else Reply(b"no such model", status=404)

    with served(answer) as service:
        of = {"five_aspects": {"url": service.url, "model": "critic", "backoff": 0.0}}
        own = {"guide": [["five_aspects"]], "verifiers": [of], "seed": [0, 1]}
        written(service, guide="brightness", verifiers={}, grader_fraction=1.0,
                searcher=POINTS["searcher"][0], grid=[own, {"seed": [0]}])  # fmt: skip
        assert sweep("out") == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "five_aspects has answered none of 8 questions" in line
        assert "the same command goes on" in line
        # Of one unit and a white picture, and none of the three others.
        assert len(service.asked) == 2 * CANDIDATES + 1
        assert len(list(Path("out/units").glob("*.parquet"))) == 2
        well = True
        assert sweep("out") == 0
        assert "8 of" in capsys.readouterr().err  # questions have failed
    assert all(row["score"] is not None for row in records("out"))


def test_what_a_service_refuses_stops_nothing() -> None:
    """A prompt that is alone in its unit, and searched first. Kills: one that stops the sweep, and
    does so again whenever it goes on.
    """

    def answer(number: int, asked: Asked) -> Reply:
        refused = '"5"' in asked.text
        return Reply(b"this is not looked at", status=400) if refused else graded(asked)

    with served(answer) as service:
        written(service, prompts=["5", "3"], unit_prompts=1, guide=["five_aspects"],
                grader_fraction=1.0, grid={"searcher": POINTS["searcher"][:1]})  # fmt: skip
        assert sweep("out") == 0
        assert len(service.asked) == 2 * CANDIDATES + 1
    by_prompt = {row["prompt"]: row["score"] for row in records("out")}
    assert by_prompt["5"] is None
    assert by_prompt["3"] > 0


def test_a_sweep_that_is_stopped_asks_nothing_twice() -> None:
    """Kills: units that begin anew; bytes that hang on when that was."""
    stop = True

    def answer(number: int, asked: Asked) -> Reply:
        if stop and number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return graded(asked)

    long = {"searcher": [{"name": "zero_order", "neighbours": 2, "iterations": 6}]}
    with served(answer) as service:
        written(service, grid=long)
        assert sweep("out") == 143
        before, stop = len(service.asked), False
        assert sweep("out") == 0
        asked = collections.Counter(map(question, service.asked))
        assert sweep("whole") == 0
    assert before < len(asked)
    assert set(asked.values()) == {1}
    assert bytes_of(Path("out")) == bytes_of(Path("whole"))


MISTAKES: dict[str, tuple[Callable[[str], str], str]] = {
    "nobody there": (lambda text: text, "nobody answers at http://127.0.0.1:9"),
    "no model": (lambda text: text.replace("model: critic", "model: ''"), "give --verifiers"),
    "no one else": (
        lambda text: text.replace("- brightness\n", "", 1),
        "no other guide says which are the best",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = MISTAKES[name]
    with served(lambda number, asked: graded(asked)) as service:
        nobody = "http://127.0.0.1:9/v1" if name == "nobody there" else service.url
        written(Service(nobody))
        Path("sweep.yaml").write_text(change(Path("sweep.yaml").read_text()))
        assert sweep("out") == 2
        assert not service.asked
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line
    assert sweep("out", "--grader-concurrency", "0") == 2
    assert "grader_concurrency is 0" in capsys.readouterr().err


def test_killed_processes_share_their_answers() -> None:
    """Two at work in one folder, both killed; one goes on. Kills: bytes that hang on who has asked;
    a cap that is passed by what was under way.
    """
    late = False

    def answer(number: int, asked: Asked) -> Reply:
        reply = graded(asked)
        reply.delay = 0.1 if late else 0.0
        return reply

    def launched(process: int) -> subprocess.Popen[bytes]:
        words = ["sweep", "sweep.yaml", "--output", "out", "--quiet", "--checkpoint-seconds", "0",
                 "--process", str(process), "--processes", "2", "--compilation-cache",
                 str(jax.config.jax_compilation_cache_dir)]  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "jaxsearch.cli", *words],
            env={**os.environ, "PYTHONPATH": str(Path(jaxsearch.__file__).parent.parent)},
        )

    long = {"searcher": [{"name": "zero_order", "neighbours": 2, "iterations": 8}], "seed": [0, 1]}
    with served(answer) as service:
        written(service, {"max_requests": 10_000}, grid=long)
        assert sweep("whole") == 0
        num, late = len(service.asked), True
        service.asked.clear()
        team = [launched(process) for process in range(2)]
        try:
            deadline = time.monotonic() + 200
            while len(service.asked) < num // 2:
                assert all(one.poll() is None for one in team)
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            for one in team:
                one.kill()
                one.communicate()
        written(service, {"max_requests": num + 20}, grid=long)
        assert sweep("out") == 0
        counts = collections.Counter(map(question, service.asked))
    assert len(counts) == num
    assert sum(number > 1 for number in counts.values()) <= 2 * 2  # of a round of each
    with contextlib.closing(sqlite3.connect("out/grades.sqlite")) as file:
        ((attempts, open_),) = file.execute("select count(*), sum(cost is null) from attempts")
    assert (attempts, open_) == (len(service.asked), 0)
    found, wanted = (bytes_of(Path(name)) for name in ("out", "whole"))
    del found["manifest.json"], wanted["manifest.json"]  # which say the cap
    assert found == wanted
