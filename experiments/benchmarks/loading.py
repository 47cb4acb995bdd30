"""Memory that reading a checkpoint takes: onto devices that share it, or whole and then divided.

    python -m experiments.benchmarks.loading    # half a minute on 2 CPU cores

A DiT of 28 blocks with random numbers is written as a file of float32, and read as bfloat16 for
eight devices that share one copy, each way in a process of its own. Devices are virtual and of the
host, so that a process holds in any case what all of them keep; what it takes on top, at its worst,
is the cost of reading. The largest array of a device is the largest that was put on one meanwhile.
Expected: results/loading_cpu.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

DEVICES = 8
WRITE = "write"
MODES = ("read onto the devices", "read, then divided", "as before: read whole, then divided")


def config() -> Any:
    """A DiT of 2.3 million weights a block: stacks of 28 are most of it."""
    from jaxsearch.models.dit import DiTConfig

    return DiTConfig(hidden_size=640, num_heads=10)


def write(path: Path) -> dict[str, float]:
    """Writes the checkpoint, all random, and says how large it is."""
    import numpy as np
    from safetensors.numpy import save_file

    from jaxsearch.models.dit_folder import abstract_dit
    from jaxsearch.models.state_dict import wanted_shapes

    rng = np.random.default_rng(0)
    shapes = wanted_shapes(abstract_dit(config()))
    save_file({k: rng.standard_normal(s, np.float32) for k, s in shapes.items()}, path)
    return {"bytes": path.stat().st_size}


def resident() -> int:
    """The bytes of this process that are in memory now, without those that are a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = dict(line.split(":", 1) for line in lines)
    return 1024 * int(kib["RssAnon"].split()[0])


def measure(mode: str, path: Path) -> dict[str, float]:
    """Loads in this process and says what it took."""
    import resource

    import jax
    import jax.numpy as jnp
    import numpy as np
    from safetensors.numpy import load_file

    from jaxsearch.models.dit_folder import abstract_dit
    from jaxsearch.models.state_dict import load_state_dict
    from jaxsearch.models.stored import stored_safetensors
    from jaxsearch.parallel import divided, loading_onto, particle_mesh

    mesh, module = particle_mesh(DEVICES, model=DEVICES), abstract_dit(config(), jnp.bfloat16)
    jax.block_until_ready(divided({"a": jnp.ones((64, 64))}, mesh))  # what is made once
    before, largest, put = resident(), [0], jax.device_put
    high = [before]
    before_high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            high[0] = max(high[0], resident())

    def noted(result: Any) -> Any:
        for leaf in jax.tree.leaves(result):
            largest[0] = max(largest[0], *(s.data.nbytes for s in leaf.addressable_shards))
        return result

    jax.device_put = lambda *arguments: noted(put(*arguments))
    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    if mode == MODES[0]:
        with loading_onto(mesh):
            params = load_state_dict(module, stored_safetensors(path), source=path)
    else:
        tensors = load_file(path) if mode == MODES[2] else stored_safetensors(path)
        params = divided(noted(load_state_dict(module, tensors, source=path)), mesh)
        del tensors
    jax.block_until_ready(params)
    seconds = time.perf_counter() - begun
    done.set()
    watcher.join()
    leaves = jax.tree.leaves(params)
    kept = sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)
    return {
        "kept": kept,
        "largest tensor": max(leaf.nbytes for leaf in leaves),
        "largest on a device": largest[0],
        "peak": high[0] - before,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_high,
        "seconds": seconds,
        "checksum": float(np.sum([float(jnp.sum(leaf.astype(jnp.float32))) for leaf in leaves])),
    }


def main() -> None:
    """Prints the table."""
    import jax
    from rich.console import Console
    from rich.table import Table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        found = {}
        # Also the file is written by another process: a child begins with its parent's peak.
        for mode in (WRITE, *MODES):
            flags = f"--xla_force_host_platform_device_count={DEVICES}"
            ran = subprocess.run(
                [sys.executable, "-m", "experiments.benchmarks.loading", mode, str(path)],
                env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found[mode] = json.loads(ran.stdout.splitlines()[-1])
        size = found.pop(WRITE)["bytes"]
    assert len({one["checksum"] for one in found.values()}) == 1, "the ways read different weights"
    table = Table(
        title=f"a file of {size / 1e6:.0f} MB (float32) as bfloat16 on {DEVICES} virtual devices, "
        f"jax {jax.__version__}, MB"
    )
    columns = ("way", "kept by all devices", "largest weight", "largest array of a device",
               "peak", "peak above what is kept", "with the file's pages", "seconds")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "way" else "right")
    for mode, one in found.items():
        sizes = [one["kept"], one["largest tensor"], one["largest on a device"], one["peak"],
                 one["peak"] - one["kept"], one["rss"]]  # fmt: skip
        table.add_row(mode, *(f"{value / 1e6:.1f}" for value in sizes), f"{one['seconds']:.1f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        mode, path = sys.argv[1], Path(sys.argv[2])
        print(json.dumps(write(path) if mode == WRITE else measure(mode, path)))
    else:
        main()
