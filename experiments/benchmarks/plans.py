"""Memory that each published model needs at its full size, on accelerators that are not here.

    python -m experiments.benchmarks.plans

Time: about a minute on 2 CPU cores, from shapes alone. Expected: results/plans.md.

Each model in bfloat16 is searched by the best of `candidates` noises a prompt, each judged by CLIP
ViT-L/14. Weights are those of network, decoder and CLIP, divided by the rule of `--model-devices`
among as few chips as will do; the encoders of texts are beside them while prompts are read, and
gone afterwards: in bfloat16 too (`--model.text_dtype`), but for Stable Diffusion 1, 2 and XL, whose
are float32 in any case. What a particle is between two rounds, and what is alive inside a model at
its worst, is what `jaxsearch plan` counts: activations as if nothing were fused (attention's
products above all) and as if each chip that shares weights had them whole, so that a chip takes
more at once than is said here. How many particles run at once is what the command would
choose: in 80 % of the memory, at one and a half times the estimate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.published import FAMILIES, Published
from jaxsearch.core.plan import Memory, memory
from jaxsearch.core.types import Prompts, PyTree
from jaxsearch.parallel.devices import MODEL_AXIS, part_of
from jaxsearch.searchers import best_of_n

GIB = 2.0**30


class Machine(NamedTuple):
    """Chips of a kind."""

    chips: int
    bytes: int  # of a chip


MACHINES = {
    "1 x H200": Machine(1, 141 * 10**9),
    "v5e-8": Machine(8, 16 * 2**30),
    "v5p-8": Machine(4, 95 * 2**30),  # it is named after its cores, two a chip
}


def on_a_chip(weights: PyTree, sharing: int) -> int:
    """The bytes of weights on each of as many chips as share one copy."""
    mesh = AbstractMesh((sharing,), (MODEL_AXIS,))

    def part(leaf: jax.ShapeDtypeStruct) -> int:
        shape: tuple[int, ...] = part_of(leaf, mesh).shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(part, jax.tree.leaves(weights)))


class Fit(NamedTuple):
    """How a model is put on a machine."""

    sharing: int  # chips that share one copy of the weights
    weights: int  # bytes on each
    particles: int  # at once, on all chips


def fit(model: Published, needed: Memory, machine: Machine) -> Fit | None:
    """With as few chips to a copy as will do; None where one particle does not fit on any."""
    problem = model.problem
    each = 1.5 * (needed.images + needed.activations)
    for sharing in (2**power for power in range(machine.chips.bit_length())):
        own = on_a_chip((problem.denoiser, problem.objective), sharing)
        texts = on_a_chip(model.encoders, sharing)
        room = 0.8 * machine.bytes - own - needed.state - needed.proposals
        if room >= each and own + texts <= 0.9 * machine.bytes:
            return Fit(sharing, own, int(room / each) * machine.chips // sharing)
    return None


def main(candidates: int = 64) -> None:
    """Prints the table.

    Args:
        candidates: of the prompt that is searched.
    """
    table = Table(title=f"bfloat16, best of {candidates} for one prompt, GiB unless said otherwise")
    columns = ("model", "weights", "encoders of texts", "MiB a particle", "inside a model",
               *MACHINES)  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", *MACHINES) else "right")
    for name, make in FAMILIES.items():
        model = make()
        one = Prompts(jnp.zeros((1,), jnp.int32), model.cond)
        needed = memory(best_of_n(candidates=candidates), model.problem, one, microbatch=1)
        held = (needed.state + needed.proposals) / candidates
        row = [
            f"{needed.weights / GIB:.2f}",
            f"{on_a_chip(model.encoders, 1) / GIB:.2f}",
            f"{held / 2**20:.3f}",
            f"{(needed.images + needed.activations) / GIB:.2f}",
        ]
        for machine in MACHINES.values():
            found = fit(model, needed, machine)
            if found is None:
                row.append("not one particle")
                continue
            shared = f"{found.sharing} chips a copy, {found.weights / GIB:.2f} on each; "
            row.append(f"{shared if found.sharing > 1 else ''}{found.particles} at once")
        table.add_row(name, *row)
    Console(width=190).print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
