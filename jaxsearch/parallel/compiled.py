"""What a compiler says of a search, for devices that need not be there."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxsearch.core.search import search
from jaxsearch.core.types import Problem, Prompts, Searcher
from jaxsearch.parallel.devices import mesh_over, part_of

HBM = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""GiB of one chip, by the generations of TPU that a topology may name."""


class Compiled(NamedTuple):
    """A search as a compiler has made it, on each device."""

    devices: int
    arguments: int  # bytes: weights and prompts
    results: int
    temporaries: int
    collectives: int  # bytes that pass between devices, each place in the program once

    @property
    def total(self) -> int:
        """Bytes of a device's memory."""
        return self.arguments + self.results + self.temporaries


def topology_devices(topology: str) -> Sequence[Any]:
    """The devices of a TPU topology such as `v5e:4x4`, of which none is needed.

    Raises:
        ValueError: if there is no such topology, or the TPU's compiler is not installed.
    """
    from jax.experimental import topologies

    generation = topology.split(":")[0]
    if generation not in HBM or not re.fullmatch(r"\w+:\d+x\d+(x\d+)?", topology):
        raise ValueError(f"topology is {topology!r}: take one such as v5e:4x4, of {', '.join(HBM)}")
    # Without these the compiler asks the machine which TPU it has.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{generation}-1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # of many kinds, by what is missing
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"topology {topology}: no program can be compiled for it here ({reason}): install the "
            "TPU's compiler by the extra 'tpu'"
        ) from error


def compiled_for(
    devices: Sequence[Any],
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    model: int = 1,
) -> Compiled:
    """Compiles a whole search for devices, its particles divided among them, and runs nothing.

    Args:
        devices: of this machine, or of a topology.
        searcher: as of `search`.
        problem: as of `search`; shapes are enough for its weights.
        prompts: [P].
        microbatch: particles run at once over all devices.
        model: devices that share one copy of the weights.

    Raises:
        ValueError: if the devices cannot be divided so.
    """
    if len(devices) % model:
        raise ValueError(f"model_devices is {model}, which does not divide {len(devices)} devices")
    mesh = mesh_over(devices, model=model)
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shape(leaf: Any, sharding: NamedSharding = everywhere) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    key = jax.eval_shape(lambda: jax.random.key(0))
    of_key, of_prompts = jax.tree.map(shape, (key, prompts))
    of_problem = jax.tree.map(lambda leaf: shape(leaf, part_of(leaf, mesh)), problem)
    lowered = search.lower(
        of_key, searcher, of_problem, of_prompts, microbatch=microbatch, mesh=mesh
    )
    program = lowered.compile()
    memory, text = program.memory_analysis(), program.as_text()
    assert memory is not None, "a backend without a compiler"
    assert text is not None
    return Compiled(
        mesh.size,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        collective_bytes(text),
    )


_COLLECTIVE = re.compile(
    r"= (?P<shapes>\(.*?\)|\S+) "
    r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(-start)?\("
)
_SHAPE = re.compile(r"(?P<type>[a-z]+[0-9]+|pred)\[(?P<sides>[0-9,]*)\]")


def collective_bytes(program: str) -> int:
    """The bytes of what the collectives of a compiled program give, each place in it once.

    Args:
        program: its text.
    """
    found = 0
    for line in _COLLECTIVE.finditer(program):
        shapes = list(_SHAPE.finditer(line["shapes"]))
        if line[3]:  # what goes in is listed too
            shapes = shapes[len(shapes) // 2 :]
        for shape in shapes:
            sides = [int(side) for side in shape["sides"].split(",") if side]
            found += math.prod(sides) * _width(shape["type"])
    return found


def _width(name: str) -> int:
    bits = re.sub(r"[a-z]+", "", name)
    return max(int(bits) // 8, 1) if bits else jnp.dtype(bool).itemsize
