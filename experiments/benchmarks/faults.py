"""Sweeps killed at random instants, tens of times, compared byte by byte with an undisturbed one.

    python -m experiments.benchmarks.faults [--kills 50] [--seed 0]    # about 8 minutes on 2 cores

Processes of a sweep, one or two at once, get SIGKILL, SIGTERM or SIGINT at instants drawn at
random: while they start, compile, search, save or write. Afterwards an undisturbed process ends
what is left, and records, manifest and every unit are compared. Some units take longer than the
time between two kills, so that the sweep ends only if a search goes on where it was saved.
"""

from __future__ import annotations

import argparse
import collections
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import yaml

SWEEP = {
    "schedule": {"name": "karras", "num_steps": 6},
    "guide": "brightness",
    "report": ["compressibility"],
    "prompts": ["3", "5", "7"],
    "unit_prompts": 2,
    "microbatch": 2,
    "keep": ["recipes", "images", "curves"],
    "grid": {
        "seed": [0, 1, 2],
        "searcher": [
            {"name": "best_of_n", "candidates": 4},
            {"name": "zero_order", "neighbours": 4, "iterations": 2500, "elitist": True},
        ],
    },
}
STATUSES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15, 0}, signal.SIGINT: {130, -2, 0}}
"""What a process may say after a signal; before its first search the system ends it itself."""


def start(base: Path, folder: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of the sweep."""
    return subprocess.Popen(
        [sys.executable, "-m", "jaxsearch.cli", "sweep", "sweep.yaml", "--output", folder,
         "--checkpoint-seconds", "0.5", "--compilation-cache", "cache", *arguments],
        cwd=base, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    """What a sweep has found."""
    paths = [*(folder / "units").iterdir(), folder / "records.parquet", folder / "manifest.json"]
    return {path.name: path.read_bytes() for path in paths}


def main() -> None:
    """Kills, goes on, compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    found = parser.parse_args()
    chance, told = random.Random(found.seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "sweep.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
        begun = time.monotonic()
        whole = start(base, "whole")
        _, error = whole.communicate()
        assert whole.returncode == 0, error
        seconds = time.monotonic() - begun
        print(f"undisturbed: {seconds:.0f} s, {len(list((base / 'whole/units').iterdir()))} units")
        went_on, sweeps, kills = 0, 0, 0
        while kills < found.kills:
            sweeps += 1
            folder = f"killed{sweeps}"
            done = False
            while not done and kills < found.kills:
                several = chance.random() < 0.3
                shares = [("--process", str(i), "--processes", "2") for i in range(2)]
                team = [start(base, folder, *share) for share in (shares if several else [()])]
                time.sleep(chance.uniform(0.5, 12.0))
                for process in team:
                    if process.poll() is not None:
                        assert process.returncode == 0, process.communicate()
                        continue
                    number = chance.choice(list(STATUSES))
                    process.send_signal(number)
                    kills += 1
                    _, error = process.communicate(timeout=60)
                    assert process.returncode in STATUSES[number], (number, error)
                    told[f"{number.name} -> {process.returncode}"] += 1
                    went_on += error.count("goes on after round")
                for path in (base / folder).rglob("*.parquet"):
                    if not path.name.startswith("."):  # none is there in part
                        assert pq.read_table(path).num_rows
                done = (base / folder / "records.parquet").exists()
            last = start(base, folder)
            _, error = last.communicate()
            assert last.returncode == 0, error
            went_on += error.count("goes on after round")
            assert contents(base / folder) == contents(base / "whole"), folder
            print(f"{folder}: identical after {kills} kills so far", flush=True)
    print(
        f"{kills} kills in {sweeps} sweeps: all identical; {went_on} searches went on in the middle"
    )
    for what, times in sorted(told.items()):
        print(f"  {what}: {times}")


if __name__ == "__main__":
    main()
