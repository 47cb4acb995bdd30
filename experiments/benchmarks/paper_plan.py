"""What the papers' largest model costs on a pod and on a GPU host, before any of it runs.

    JAX_PLATFORMS=cpu python -m experiments.benchmarks.paper_plan    # 5 minutes on 2 CPU cores

DiT-XL/2 at 256x256 with its autoencoder in bfloat16, guided (two network passes a step), 50 steps
of DDPM, 1000 trajectories for each of 10 000 prompts. Weights are shapes. A sweep's units are
searched by single hosts, so memory is that of one host: for a TPU what its compiler says, which
needs the `tpu` extra and no TPU; for a GPU what `plan` counts. Hours are operations over a stated
rate: 40 % of the peak that the makers publish for bfloat16 (v5e 197, H200 989 TFLOP/s).
"""

from __future__ import annotations

import jax.numpy as jnp
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from jaxsearch.core.plan import memory, plan
from jaxsearch.core.process import trained_steps
from jaxsearch.core.types import Objective, Problem, Prompts, Searcher
from jaxsearch.core.value import lookahead
from jaxsearch.models import autoencoder_kl, dit
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.parallel.compiled import HBM, compiled_for, topology_devices
from jaxsearch.searchers import best_of_n, epsilon_greedy
from jaxsearch.solvers import first_order
from jaxsearch.verifiers.brightness import brightness

PROMPTS, TRAJECTORIES, AT_ONCE = 10_000, 1_000, 64
PEAK = {"v5e": 197e12, "H200": 989e12}
UTILISATION = 0.4


def problem() -> Problem:
    """DiT-XL/2 in bfloat16, its weights shapes."""

    config, latents = dit.DiTConfig(), autoencoder_kl.AutoencoderConfig()
    half = compute_type(jnp.bfloat16)
    network = abstract_module(lambda rngs: dit.DiT(config, dtype=half, rngs=rngs))
    autoencoder = abstract_module(
        lambda rngs: autoencoder_kl.AutoencoderKL(
            latents, with_encoder=False, dtype=half, rngs=rngs
        )
    )
    denoiser = dit.dit_denoiser(config, parameters(network), guidance=4.0, dtype=jnp.bfloat16)
    decoder = autoencoder_kl.autoencoder_decoder(
        latents, parameters(autoencoder), dtype=jnp.bfloat16
    )
    return Problem(
        denoiser=denoiser,
        objective=Objective(
            decoder=decoder,
            verifiers=(brightness(),),
        ),
        solver=first_order(trained_steps(denoiser.process, num_steps=50), eta=1.0),
        value=lookahead(),
    )


def main(at_once: int = AT_ONCE) -> None:
    """Prints the tables.

    Args:
        at_once: particles that a TPU host runs at once.
    """
    one, console = problem(), Console(width=150)
    prompts = Prompts(jnp.arange(8), jnp.zeros((8,), jnp.int32), {"label": jnp.arange(8)})
    searchers: dict[str, Searcher] = {
        "best-of-1000": best_of_n(candidates=TRAJECTORIES),
        "epsilon-greedy, N = 4, K = 20": epsilon_greedy(),
    }
    hosts = Table(title="memory of a device, units of 8 prompts")
    for column in ("searcher", "where", "at once", "GiB", "of", "between chips, MiB"):
        hosts.add_column(column, justify="right")
    price = plan(searchers["best-of-1000"], one, prompts)
    for name, searcher in searchers.items():
        found = compiled_for(
            topology_devices("v5e:2x2"), searcher, one, prompts, microbatch=at_once
        )
        hosts.add_row(name, "v5e, host of 4 chips", f"{at_once}", f"{found.total / 2**30:.2f}",
                      f"{HBM['v5e']}", f"{found.collectives / 2**20:.2f}")  # fmt: skip
        for gpu_batch in (64, 512):
            needed = memory(searcher, one, prompts, microbatch=gpu_batch)
            hosts.add_row(name, "H200", f"{gpu_batch}", f"{needed.total / 2**30:.2f}", "139", "-")
    console.print(hosts)
    work = price.flops / prompts.ids.size * PROMPTS
    table = Table(title=f"{PROMPTS} prompts x {TRAJECTORIES} trajectories: {work:.3g} operations")
    for column in ("where", "TFLOP/s a device", "hours"):
        table.add_column(column, justify="right")
    for where, kind, devices in (("v5e-256", "v5e", 256), ("8 x H200", "H200", 8)):
        rate = UTILISATION * PEAK[kind]
        hours = work / rate / devices / 3600
        table.add_row(where, f"{rate / 1e12:.0f}", f"{hours:.1f}")
    console.print(table)


if __name__ == "__main__":
    auto_cli(main)
