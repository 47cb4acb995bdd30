"""What a sweep takes beside the searches that it is made of: the device time that is lost.

    python -m experiments.benchmarks.sweep [--seconds 8] [--repeats 3]    # 13 minutes on 2 cores

The sweep is the command's own, with everything it writes: records, recipes, pictures, scores of
all verifiers. Beside it the same searches are sent to the device one after the other by `search`,
which writes nothing. `busy` is the time with something on the device: what a unit takes beside it
is lost, and the bar is 1.05. Where host and device are the same cores nothing can be hidden behind
searches: what the host does makes `busy` longer, and only the searches alone, `bare`, show it. All
run in turn in one process that has compiled before, `repeats` times, and the fastest of each
counts, since other work on the machine only ever adds time. A sweep has as many units as fill
`seconds` with searches, and what it takes with only four of them is taken off: the model is read,
the microbatch chosen and the records merged once for all.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import yaml
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from jaxsearch.core.search import search
from jaxsearch.runs.build import build
from jaxsearch.sweeps.folder import SweepFolder
from jaxsearch.sweeps.grid import Sweep, read_sweep
from jaxsearch.sweeps.sweep import SweepOptions, run_sweep

SEARCHERS: dict[str, Any] = {
    "best_of_n(candidates=4)": {"name": "best_of_n", "candidates": 4},
    "best_of_n(candidates=64)": {"name": "best_of_n", "candidates": 64},
    "epsilon_greedy()": {"name": "epsilon_greedy"},
    "beam()": {"name": "beam"},
}
KEEP = {"all": ["recipes", "images", "curves"], "scores alone": []}


def swept(sweep: Sweep) -> tuple[float, float]:
    """The seconds of a sweep into a new folder, and those with something on the device."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "sweep"
        begun = time.monotonic()
        run_sweep(sweep, path, SweepOptions(quiet=True), Console(quiet=True))
        seconds = time.monotonic() - begun
        folder = SweepFolder(path)
        logs = [json.loads(folder.log(one).read_text()) for one in folder.done()]
        return seconds, sum(log["seconds"] for log in logs)


def bare(sweep: Sweep) -> float:
    """The seconds of the searches alone."""
    built = build(sweep.points[0].config)
    keys = [jax.random.key(point.config.seed) for point in sweep.points]
    begun = time.monotonic()
    found = [search(key, built.searcher, built.problem, built.prompts).score for key in keys]
    jax.block_until_ready(found)
    return time.monotonic() - begun


def main(seconds: float = 8.0, repeats: int = 3) -> None:
    """Prints the table.

    Args:
        seconds: of the searches of a sweep, about.
        repeats: runs of each, of which the fastest counts.
    """
    table = Table(
        title=f"units of 36 prompts, T = 18, {jax.devices()[0].device_kind}, "
        f"{platform.machine()}, jax {jax.__version__}"
    )
    table.add_column("searcher")
    table.add_column("keep")
    for column in ("units", "seconds a unit", "busy", "bare", "/ busy", "/ bare"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for name, searcher in SEARCHERS.items():
            for kept, keep in KEEP.items():
                file = Path(folder) / "sweep.yaml"
                content = {"searcher": searcher, "grid": {"seed": list(range(512))}, "keep": keep}
                file.write_text(yaml.safe_dump(content))
                sweep = read_sweep(file)
                assert len(sweep.points[0].config.prompts) <= sweep.unit_prompts
                few = sweep._replace(points=sweep.points[:4])
                swept(few)  # compiles
                bare(few)
                units = min(8 + math.ceil(seconds / (bare(few) / 4)), len(sweep.points))
                sweep = sweep._replace(points=sweep.points[:units])
                turns = [
                    (*swept(sweep), bare(sweep), *swept(few), bare(few)) for _ in range(repeats)
                ]
                fastest = [min(column) for column in zip(*turns, strict=True)]
                sweeping, busy, alone = (fastest[i] - fastest[i + 3] for i in range(3))
                each = [f"{taken / (units - 4):.3f}" for taken in (sweeping, busy, alone)]
                shares = (f"{sweeping / busy:.3f}", f"{sweeping / alone:.3f}")
                table.add_row(name, kept, str(units), *each, *shares)
    Console(width=120).print(table)


if __name__ == "__main__":
    auto_cli(main)
