"""Law 3 across processes: two of them with four devices each find what one device finds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import jax
import numpy as np

from jaxsearch.core.search import search
from tests import cases, toys

CHILD = """
import os, sys
flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = flags
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
address, rank = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, num_processes=2, process_id=rank)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxsearch.core.search import search
from tests import cases, toys
assert jax.device_count() == 8 and jax.process_count() == 2
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
found = run(problem, prompts)
shards = (found.score, found.cost.network_passes)
score, passes = (np.asarray(shard.addressable_data(0)) for shard in shards)
print("FOUND", rank, *score.tolist(), *passes.tolist(), flush=True)
"""


def test_two_processes_find_what_one_device_finds():
    """Kills: a key folded with a process or device index."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.getcwd()}
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
    one = search(
        jax.random.key(7),
        cases.SEARCHERS["epsilon_greedy"].searcher,
        toys.problem(cases.solvers()["heun_edm"]),
        toys.prompts(4),
    )
    for rank, output in enumerate(outputs):
        lines = [line for line in output.splitlines() if line.startswith("FOUND")]
        assert lines, output[-2000:]
        numbers = [float(word) for word in lines[0].split()[2:]]
        assert lines[0].split()[1] == str(rank)
        np.testing.assert_allclose(numbers[:4], one.score, atol=2e-6)
        np.testing.assert_array_equal(numbers[4:], one.cost.network_passes)
