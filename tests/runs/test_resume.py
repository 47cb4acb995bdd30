"""Runs killed at random instants go on to the bytes of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jaxsearch import cli
from jaxsearch.runs.images import read_png
from jaxsearch.runs.recipes import read_recipes

COMMAND = Path(sys.executable).parent / "jaxsearch"
ARGUMENTS = [
    "--searcher", "zero_order", "--searcher.iterations", "500", "--searcher.neighbours", "3",
    "--searcher.elitist", "true", "--schedule.num_steps", "4", "--microbatch", "2",
    "--report", "brightness", "--prompts", "3", "5", "7",
]  # fmt: skip
NUM_ROUNDS = 501


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


def launch(base: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "search", "--compilation-cache", base / "cache", "--checkpoint-seconds", "0",
         *arguments],
        cwd=base, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return out + error


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> Path:
    finish(launch(base, *ARGUMENTS, "--output", "undisturbed"))
    return base / "undisturbed"


def check_whole(run: Path) -> None:
    """Every file that looks like a result can be read to its end."""
    for path in run.rglob("*"):
        if not path.is_file() or "checkpoint" in path.parts or path.name.endswith(".partial"):
            continue
        if path.suffix == ".png":
            read_png(path)
        elif path.name == "recipes.jsonl":
            read_recipes(path)
        elif path.suffix == ".jsonl":
            assert [json.loads(line) for line in path.read_text().splitlines()]
        else:
            assert yaml.safe_load(path.read_text())
    if (run / "summary.json").exists():
        assert (run / "samples.png").exists()


def without_times(path: Path) -> object:
    if path.name == "summary.json":
        return {**json.loads(path.read_text()), "seconds": None}
    if path.name == "records.jsonl":
        return [{**json.loads(line), "seconds": None} for line in path.read_text().splitlines()]
    return path.read_bytes()


def assert_same_run(one: Path, two: Path) -> None:
    files = [
        sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        for run in (one, two)
    ]
    assert files[0] == files[1]
    for name in files[0]:
        assert without_times(one / name) == without_times(two / name), name


def saved_rounds(run: Path) -> list[int]:
    folder = run / "checkpoint"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return [int(name) for name in names if name.isdigit()]


def wait_until(ready, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def test_killed_again_and_again(base: Path, undisturbed: Path) -> None:
    run, chance = base / "killed", random.Random(4)
    stops = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    statuses = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
    gone_on = 0
    for attempt, stop in enumerate(stops):
        begin = [*ARGUMENTS, "--output", str(run)] if attempt == 0 else ["--resume", str(run)]
        before = max(saved_rounds(run), default=-1)
        process = launch(base, *begin)
        if attempt == 0:  # before the first round: there is nothing but the config
            wait_until((run / "config.yaml").exists, process)
        else:
            # Once it has come further than the last one, at a random instant of what follows:
            # during a chunk, a checkpoint or the removal of the one before.
            wait_until(lambda least=before: max(saved_rounds(run), default=-1) > least, process)
            time.sleep(chance.uniform(0.0, 0.3))
        assert process.poll() is None, "it was too fast to be killed: give it more rounds"
        process.send_signal(stop)
        _, error = process.communicate(timeout=60)
        assert process.returncode == statuses[stop], error
        gone_on += "going on after round" in error
        check_whole(run)
        assert not (run / "summary.json").exists()
    assert gone_on >= 2
    assert 0 < max(saved_rounds(run)) < NUM_ROUNDS
    finish(launch(base, "--resume", str(run)))
    assert_same_run(undisturbed, run)


def test_a_second_ctrl_c_does_not_wait(base: Path) -> None:
    """Kills: a handler that only ever waits for the round under way."""
    run = base / "twice"
    process = launch(base, *ARGUMENTS, "--output", str(run), "--compilation-cache", "cold")
    wait_until((run / "versions.json").exists, process)
    time.sleep(0.5)  # compiling: the end of a round is far
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Ctrl-C again stops at once" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    check_whole(run)
    assert not saved_rounds(run)


def test_killed_while_results_are_written(base: Path, undisturbed: Path) -> None:
    run = base / "killed_late"
    process = launch(base, *ARGUMENTS, "--output", str(run))
    wait_until((run / "images").exists, process)
    process.kill()
    process.communicate()
    check_whole(run)
    assert (run / "recipes.jsonl").exists()
    finish(launch(base, "--resume", str(run)))
    assert_same_run(undisturbed, run)
    assert not list(run.rglob("*.partial"))


def test_a_run_under_way_is_not_joined_by_another(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = base / "busy"
    process = launch(base, *ARGUMENTS, "--output", str(run))
    wait_until(lambda: bool(saved_rounds(run)), process)
    assert cli.main(["search", "--resume", str(run)]) == 2
    process.kill()
    process.communicate()
    assert "is in use" in capsys.readouterr().err
