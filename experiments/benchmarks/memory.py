"""Bytes inside full-size networks: what `peak_bytes` counts, beside what XLA takes.

    python -m experiments.benchmarks.memory    # a minute on 2 CPU cores

Weights are shapes and nothing runs: each network of `networks.py` is compiled for this machine, at
two batches. XLA's figure is its temporaries and results. Their difference is what a further latent
takes, without what does not grow with the batch, such as copies of weights in another layout.
"""

from __future__ import annotations

import jax
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.networks import NETWORKS
from jaxsearch.core.liveness import peak_bytes
from jaxsearch.models.loading import abstract_module, functional, parameters


def main(only: tuple[str, ...] = tuple(NETWORKS)) -> None:
    """Prints the table.

    Args:
        only: which networks.
    """
    table = Table(title=f"float32, {jax.devices()[0].device_kind}, jax {jax.__version__}, MB")
    for column in ("network", "batch", "counted", "XLA", "ratio", "ratio of a further latent"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name in only:
        pair = NETWORKS[name]()
        params = parameters(abstract_module(pair.build))
        network = functional(pair.build, pair.method)
        before = np.zeros(2)
        for batch in (1, 2):
            given = pair.inputs(batch, np.random.default_rng(0))
            shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in given]
            counted = peak_bytes(network, params, *shapes)
            memory = jax.jit(network).lower(params, *shapes).compile().memory_analysis()
            assert memory is not None
            taken = memory.temp_size_in_bytes + memory.output_size_in_bytes
            both = np.asarray([counted, taken]) / 1e6
            further = "" if batch == 1 else f"{np.divide(*(both - before)):.2f}"
            table.add_row(name, f"{batch}", *(f"{one:.1f}" for one in both),
                          f"{np.divide(*both):.2f}", further)  # fmt: skip
            before = both
    Console(width=100).print(table)


if __name__ == "__main__":
    auto_cli(main)
