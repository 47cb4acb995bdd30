"""A plan on paper: 10 000 prompts x 1 000 trajectories on accelerators that are not here.

    python -m experiments.benchmarks.pods

Time: about a minute on 2 CPU cores, from shapes alone. Expected: results/pods.md.

Each base model in bfloat16 at its published size is searched by the best of as many candidates as
there are trajectories, each scored by CLIP ViT-L/14. Operations, weights and what is alive at once
are what `jaxsearch plan` counts; hours are operations over the chips' peak (bfloat16, dense) times
a share of it that is an assumption, not a measurement. Each chip has all weights, and as many
particles at once as fit beside them. Nothing passes between chips while they search
(`tests/parallel/test_compiled.py`); what they send at the end are the winners' latents. Activations
are counted as if nothing were fused: attention's products above all, which flash attention never
has in memory, so that a chip takes more at once than is said here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.published import dit, flux, sd3, sdxl
from jaxsearch.core.plan import plan
from jaxsearch.core.types import Prompts
from jaxsearch.searchers import best_of_n


class Pod(NamedTuple):
    """Chips of a kind."""

    chips: int
    bytes: int  # of a chip
    tflops: float  # of a chip, bfloat16, dense


PODS = {
    "v5e-256": Pod(256, 16 * 2**30, 197.0),
    "8 x H200": Pod(8, 141 * 10**9, 989.0),
}


MODELS = {
    "DiT-XL/2, 256": dit,
    "SDXL, 1024": sdxl,
    "SD3-medium, 1024": sd3,
    "FLUX.1-dev, 1024": flux,
}


def main(prompts: int = 10_000, trajectories: int = 1_000, utilisation: float = 0.4) -> None:
    """Prints the table.

    Args:
        prompts: how many.
        trajectories: of each.
        utilisation: the share of a chip's peak that is assumed.
    """
    table = Table(
        title=f"{prompts:,} prompts x {trajectories:,} trajectories, bfloat16, "
        f"{utilisation:.0%} of peak assumed"
    )
    columns = ("model", "pod", "passes", "TFLOP a pass", "EFLOP", "weights GiB", "GiB a particle",
               "particles a chip", "sent at the end GiB", "hours")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    gib = 2.0**30
    for name, make in MODELS.items():
        model = make()
        one = Prompts(jnp.zeros((1,), jnp.int32), model.cond)
        price = plan(best_of_n(candidates=trajectories), model.problem, one, microbatch=1)
        memory, flops = price.memory, price.flops * prompts
        each = memory.images + memory.activations
        latents = 4 * int(jnp.prod(jnp.asarray(model.denoiser.shape)))
        for pod_name, pod in PODS.items():
            # At 1.5 times the estimate and in 80 % of the memory, as the command chooses it.
            free = 0.8 * pod.bytes - memory.weights - memory.state
            own = int(free / (1.5 * each))
            hours = flops / (pod.chips * pod.tflops * 1e12 * utilisation) / 3600
            table.add_row(
                name, pod_name, f"{int(price.cost.network_passes) * prompts:.3g}",
                f"{price.flops_per_call.network_pass / 1e12:.3g}", f"{flops / 1e18:,.0f}",
                f"{memory.weights / gib:.2f}", f"{each / gib:.2f}",
                str(own) if own > 0 else "0: divide the weights", f"{prompts * latents / gib:.2f}",
                f"{hours:,.0f}",
            )  # fmt: skip
    Console(width=170).print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
