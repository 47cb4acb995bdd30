"""What a sweep takes beside the searches that it is made of: the device time that is lost.

    python -m experiments.benchmarks.sweep [--seeds 12] [--repeats 3]    # 3 minutes on 2 CPU cores

The sweep is the command's own, with everything it writes: records, recipes, pictures, scores of
all verifiers. Beside it the same searches are sent to the device one after the other by `search`,
which writes nothing. Both run in turn in one process that has compiled before; a ratio is that of
the fastest of `repeats` runs, since other work on the machine only ever adds time. The bar is 1.05.
On a CPU device and host are the same cores, so that nothing there can be hidden behind searches.
"""

from __future__ import annotations

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
from jaxsearch.sweeps.grid import Sweep, read_sweep
from jaxsearch.sweeps.sweep import SweepOptions, run_sweep

SEARCHERS: dict[str, Any] = {
    "best_of_n(candidates=4)": {"name": "best_of_n", "candidates": 4},
    "best_of_n(candidates=64)": {"name": "best_of_n", "candidates": 64},
    "epsilon_greedy()": {"name": "epsilon_greedy"},
    "beam()": {"name": "beam"},
}
KEEP = {"all": ["recipes", "images", "curves"], "scores alone": []}


def swept(sweep: Sweep) -> float:
    """The seconds of a sweep into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        run_sweep(sweep, Path(folder) / "sweep", SweepOptions(quiet=True), Console(quiet=True))
        return time.monotonic() - begun


def bare(sweep: Sweep) -> float:
    """The seconds of the searches alone."""
    built = build(sweep.points[0].config)
    keys = [jax.random.key(point.config.seed) for point in sweep.points]
    begun = time.monotonic()
    found = [search(key, built.searcher, built.problem, built.prompts).score for key in keys]
    jax.block_until_ready(found)
    return time.monotonic() - begun


def main(seeds: int = 12, repeats: int = 3) -> None:
    """Prints the table.

    Args:
        seeds: units of a sweep, 36 prompts each.
        repeats: runs of each, of which the fastest counts.
    """
    table = Table(
        title=f"units of 36 prompts, T = 18, {jax.devices()[0].device_kind}, "
        f"{platform.machine()}, jax {jax.__version__}"
    )
    for column in ("searcher", "keep", "seconds a unit", "bare", "ratio"):
        table.add_column(column, justify="left" if column in ("searcher", "keep") else "right")
    with tempfile.TemporaryDirectory() as folder:
        for name, searcher in SEARCHERS.items():
            for kept, keep in KEEP.items():
                file = Path(folder) / "sweep.yaml"
                grid = {"seed": list(range(seeds))}
                content = {"searcher": searcher, "grid": grid, "keep": keep}
                file.write_text(yaml.safe_dump(content))
                sweep = read_sweep(file)
                assert len(sweep.points[0].config.prompts) <= sweep.unit_prompts
                swept(sweep._replace(points=sweep.points[:2]))  # compiles
                bare(sweep._replace(points=sweep.points[:2]))
                pairs = [(swept(sweep), bare(sweep)) for _ in range(repeats)]
                sweeping, alone = (min(column) / seeds for column in zip(*pairs, strict=True))
                table.add_row(
                    name, kept, f"{sweeping:.3f}", f"{alone:.3f}", f"{sweeping / alone:.3f}"
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    auto_cli(main)
