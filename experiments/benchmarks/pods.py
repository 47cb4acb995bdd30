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

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from jaxsearch.core.plan import plan
from jaxsearch.core.process import shifted, trained_steps, variance_preserving
from jaxsearch.core.types import (
    Array,
    Decoder,
    Denoiser,
    Objective,
    Problem,
    Prompts,
    PyTree,
    Solver,
    Verifier,
)
from jaxsearch.core.value import solver_estimate
from jaxsearch.models.autoencoder_kl import AutoencoderConfig, AutoencoderKL, autoencoder_decoder
from jaxsearch.models.clip_vision import ClipVision, ClipVisionConfig
from jaxsearch.models.dit import DiT, DiTConfig, dit_denoiser
from jaxsearch.models.epsilon import epsilon_denoiser
from jaxsearch.models.flux import Flux, FluxConfig, GuidedText, flux_network
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.loading import abstract_module, functional, parameters
from jaxsearch.models.mmdit import MMDiT, MMDiTConfig, PooledText, mmdit_network, placed
from jaxsearch.models.rectified_flow import rectified_flow_denoiser
from jaxsearch.models.unet2d_condition import (
    SizedText,
    UNet2DCondition,
    UNetConfig,
    unet_network,
)
from jaxsearch.searchers import best_of_n
from jaxsearch.solvers import first_order


class Pod(NamedTuple):
    """Chips of a kind."""

    chips: int
    bytes: int  # of a chip
    tflops: float  # of a chip, bfloat16, dense


PODS = {
    "v5e-256": Pod(256, 16 * 2**30, 197.0),
    "8 x H200": Pod(8, 141 * 10**9, 989.0),
}


def shapes(build: Callable[[nnx.Rngs], nnx.Module]) -> PyTree:
    """The weights of a network in bfloat16, of which nothing but shapes is there."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16),
        parameters(abstract_module(build)),
    )


def autoencoder(latent_channels: int) -> Decoder:
    """Stable Diffusion's, of latents with so many channels."""
    config = AutoencoderConfig(latent_channels=latent_channels)
    weights = shapes(lambda rngs: AutoencoderKL(config, with_encoder=False, rngs=rngs))
    return autoencoder_decoder(config, weights, dtype=jnp.bfloat16)


def clip() -> Verifier:
    """The image side of CLIP ViT-L/14; the text side is done before a search."""
    config = ClipVisionConfig(
        patch_size=14, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16,
    )  # fmt: skip

    def build(rngs: nnx.Rngs) -> ClipVision:
        return ClipVision(config, dtype=jnp.bfloat16, rngs=rngs)

    encode = functional(build)

    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        small = jax.image.resize(images, (images.shape[0], 224, 224, 3), "bicubic")
        seen = encode(params, small)
        return jnp.mean(seen.reshape(seen.shape[0], -1), axis=1)

    return Verifier(name="clip_score", apply=apply, params=shapes(build))


def told(**leaves: tuple[int, ...]) -> dict[str, Array]:
    """Zeros of one prompt's condition."""
    return {name: jnp.zeros((1, *shape)) for name, shape in leaves.items()}


def dit() -> tuple[Denoiser, Solver, PyTree, Decoder]:
    """DiT-XL/2, 256x256 pixels, 50 steps."""
    config = DiTConfig()
    weights = shapes(lambda rngs: DiT(config, rngs=rngs))
    denoiser = dit_denoiser(config, weights, guidance=4.0, dtype=jnp.bfloat16)
    schedule = trained_steps(denoiser.process, num_steps=50)
    return denoiser, first_order(schedule), jnp.zeros((1,), jnp.int32), autoencoder(4)


def sdxl() -> tuple[Denoiser, Solver, PyTree, Decoder]:
    """Stable Diffusion XL, 1024x1024 pixels, 30 steps."""
    config = UNetConfig(
        sample_size=128, block_out_channels=(320, 640, 1280), num_heads=(5, 10, 20),
        down_attends=(False, True, True), up_attends=(True, True, False),
        transformer_layers=(1, 2, 10), cross_attention_dim=2048, addition_time_embed_dim=256,
        pooled_features=1280,
    )  # fmt: skip
    weights = shapes(lambda rngs: UNet2DCondition(config, rngs=rngs))
    process = variance_preserving(beta_start=0.00085, beta_end=0.012, shape="scaled_linear")
    network = unet_network(config, dtype=jnp.bfloat16)
    plain = epsilon_denoiser(network, weights, shape=(128, 128, 4), process=process)
    cond = SizedText(**told(text=(77, 2048), pooled=(1280,), sizes=(6,)))
    denoiser = classifier_free_guidance(plain, scale=5.0, null=jax.tree.map(lambda x: x[0], cond))
    return denoiser, first_order(trained_steps(process, num_steps=30)), cond, autoencoder(4)


def sd3() -> tuple[Denoiser, Solver, PyTree, Decoder]:
    """Stable Diffusion 3 medium, 1024x1024 pixels, 28 steps."""
    config = MMDiTConfig()
    whole = shapes(lambda rngs: MMDiT(config, rngs=rngs))
    weights = jax.eval_shape(lambda params: placed(params, config, 128, 128), whole)
    network = mmdit_network(config, dtype=jnp.bfloat16)
    plain = rectified_flow_denoiser(network, weights, shape=(128, 128, 16))
    cond = PooledText(**told(tokens=(333, 4096), pooled=(2048,)))
    denoiser = classifier_free_guidance(plain, scale=7.0, null=jax.tree.map(lambda x: x[0], cond))
    solver = first_order(shifted(denoiser.process, num_steps=28, shift=3.0))
    return denoiser, solver, cond, autoencoder(16)


def flux() -> tuple[Denoiser, Solver, PyTree, Decoder]:
    """FLUX.1-dev, 1024x1024 pixels, 28 steps, its guidance distilled."""
    config = FluxConfig()
    weights = shapes(lambda rngs: Flux(config, rngs=rngs))
    network = flux_network(config, dtype=jnp.bfloat16)
    denoiser = rectified_flow_denoiser(network, weights, shape=(128, 128, 16))
    cond = GuidedText(**told(tokens=(512, 4096), pooled=(768,), guidance=()))
    solver = first_order(shifted(denoiser.process, num_steps=28, shift=math.exp(1.15)))
    return denoiser, solver, cond, autoencoder(16)


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
        denoiser, solver, cond, decoder = make()
        problem = Problem(
            denoiser=denoiser,
            objective=Objective(decoder=decoder, verifiers=(clip(),)),
            solver=solver,
            value=solver_estimate(),
        )
        one = Prompts(jnp.zeros((1,), jnp.int32), cond)
        price = plan(best_of_n(candidates=trajectories), problem, one, microbatch=1)
        memory, flops = price.memory, price.flops * prompts
        each = memory.images + memory.activations
        latents = 4 * int(jnp.prod(jnp.asarray(denoiser.shape)))
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
