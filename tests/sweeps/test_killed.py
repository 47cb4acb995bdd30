"""Processes of a sweep that end by themselves, by a signal, at once: in the end the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.sweeps.small import GRID, written
from tests.sweeps.test_sweep import bytes_of

COMMAND = Path(sys.executable).parent / "jaxsearch"
LONG = {"name": "zero_order", "neighbours": 2, "iterations": 900, "elitist": True}


def start(base: Path, folder: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "sweep", "sweep.yaml", "--output", folder, "--checkpoint-seconds", "0.1",
         "--compilation-cache", "cache", "--devices", "2", *arguments],
        cwd=base, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str], status: int) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == status, error
    return out + error


def wait_until(ready: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)


def test_two_processes_are_killed_and_one_goes_on(tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and SIGINT in the middle of searches, and a change of machines.

    Kills: a search that begins anew; bytes that hang on who has searched a unit, or in how many
    goes.
    """
    written(tmp_path / "sweep.yaml", grid={"seed": [0], "searcher": [GRID["searcher"][0], LONG]})
    end(start(tmp_path, "whole", "--quiet"), 0)
    folder = tmp_path / "killed"

    def saved() -> int:
        """How many searches are saved in the middle."""
        found = [*(folder / "checkpoints").glob("*/[0-9]*")]
        return len({path.parent for path in found if path.name.isdigit()})

    team = [start(tmp_path, "killed", "--process", str(i), "--processes", "2") for i in range(2)]
    wait_until(lambda: saved() == 2, *team)
    team[1].kill()
    team[0].terminate()
    end(team[1], -signal.SIGKILL)
    assert "the same command goes on with the sweep" in end(team[0], 143)
    assert not (folder / "records.parquet").exists()
    alone = start(tmp_path, "killed")
    assert alone.stderr is not None
    while "goes on after round" not in alone.stderr.readline():
        assert alone.poll() is None
    alone.send_signal(signal.SIGINT)
    assert "stopping after this round" in end(alone, 130)
    said = end(start(tmp_path, "killed"), 0)
    assert "4 of 4 units done" in said
    assert bytes_of(folder) == bytes_of(tmp_path / "whole")
    assert saved() == 0
