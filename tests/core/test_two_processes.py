"""Law 3 across processes: two of four devices each find the bits of one with eight."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsearch.core.search import search
from tests import cases, toys

CHILD = """
import sys
import jax
address, rank = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, num_processes=2, process_id=rank)
assert jax.device_count() == 8 and jax.process_count() == 2
from tests.core.test_two_processes import found
print("FOUND", rank, *(one.tobytes().hex() for one in found()), flush=True)
"""


def found() -> list[np.ndarray]:
    """Scores, the best after each round and passes of a search, one particle at once a device."""
    mesh = jax.make_mesh((8,), ("particle",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    problem = toys.problem(cases.solvers()["heun_edm"])
    prompts = jax.tree.map(np.asarray, toys.prompts(4))
    one = cases.SEARCHERS["epsilon_greedy"].searcher
    run = jax.jit(
        lambda problem, prompts: search(
            jax.random.key(7), one, problem, prompts, mesh=mesh, microbatch=8
        )._replace(particle=None),
        out_shardings=everywhere,
    )
    result = run(problem, prompts)
    leaves = (result.score, result.trace.best, result.cost.network_passes)
    return [np.asarray(leaf.addressable_data(0)) for leaf in leaves]


def test_two_processes_find_the_bits_of_one():
    """Kills: a key folded with a process or device index."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, address, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=300)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    wanted = [one.tobytes().hex() for one in found()]
    for rank, output in enumerate(outputs):
        lines = [line for line in output.splitlines() if line.startswith("FOUND")]
        assert lines, output[-2000:]
        assert lines[0].split()[1:] == [str(rank), *wanted]
