"""Weak scaling: what passes between devices, beside what they compute.

    python -m experiments.benchmarks.scaling    # 2 minutes on 2 CPU cores

Prompts grow with the devices, so each device has as much to do. Virtual devices of a CPU share its
cores and show no wall time, so a search is compiled and its program is read: the operations of one
device, its memory, and the bytes of every exchange between devices, each place in the program
counted once (a round of each stage, and what is before and after them). `search` divides particles
and keeps what belongs to a prompt where its particles are; where prompts do not divide evenly among
devices, what a round finds is gathered.
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from experiments import common
from jaxsearch.core.plan import plan
from jaxsearch.core.types import Searcher
from jaxsearch.parallel.compiled import compiled_for
from jaxsearch.searchers import best_of_n, epsilon_greedy, mcts, smc

SEARCHERS: dict[str, Searcher] = {
    "best_of_n(candidates=16)": best_of_n(candidates=16),
    "epsilon_greedy()": epsilon_greedy(),
    "mcts()": mcts(),
    "smc()": smc(),
}


def main(prompts_per_device: int = 12, uneven: int = 1) -> None:
    """Prints the table.

    Args:
        prompts_per_device: how many prompts each device has.
        uneven: prompts more than that in the last rows, so that they do not divide evenly.
    """
    table = Table(title=f"jax {jax.__version__}, {prompts_per_device} prompts a device")
    columns = ("searcher", "devices", "prompts", "operations a device", "MiB a device",
               "exchanged, KiB")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "searcher" else "right")
    guide = common.guides()[-1]
    for name, searcher in SEARCHERS.items():
        for devices in (1, 2, 4, 8):
            for more in (0, uneven) if devices == 8 else (0,):
                prompts = common.prompts(prompts_per_device * devices + more)
                problem = common.problem(guide)
                found = compiled_for(jax.devices()[:devices], searcher, problem, prompts)
                work = plan(searcher, problem, prompts).flops / devices
                table.add_row(
                    name, f"{devices}", f"{prompts.ids.size}", f"{work:.3g}",
                    f"{found.total / 2**20:.2f}", f"{found.collectives / 2**10:.1f}",
                )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    auto_cli(main)
