"""What `jaxsearch plan` says beside the price: memory of devices that are not there, and time."""

from __future__ import annotations

import math
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsearch.core.plan import Plan
from jaxsearch.core.types import Array, Denoiser, Prompts, PyTree
from jaxsearch.parallel import num_particle_devices
from jaxsearch.parallel.compiled import HBM, Compiled, compiled_for, topology_devices
from jaxsearch.runs.arguments import Planning
from jaxsearch.runs.build import Built
from jaxsearch.runs.config import Config
from jaxsearch.runs.errors import bytes_text, explained

_TIMED = 3  # calls of the network


def further(
    planning: Planning,
    config: Config,
    built: Built,
    price: Plan,
    mesh: Mesh | None,
    model_devices: int,
) -> dict[str, str]:
    """The lines that are asked for, by their names.

    Args:
        planning: what is asked for.
        config: of the search.
        built: of it.
        price: of it.
        mesh: that it would run on here.
        model_devices: that share one copy of the weights, here or of a topology.

    Raises:
        UserError: if there is no such topology, or nothing can be compiled for it here.
    """
    found: dict[str, str] = {}
    devices = 1 if mesh is None else mesh.size
    if planning.topology is not None:
        with explained("topology"):
            there = topology_devices(planning.topology)
            compiled = compiled_for(
                there, built.searcher, built.problem, built.prompts,
                microbatch=config.microbatch, model=model_devices,
            )  # fmt: skip
        found["topology"] = _memory(planning.topology, compiled)
        devices = compiled.devices
    rate, source = (planning.rate or 0.0) * 1e12, "as stated"
    if planning.measure:
        at_once = min(config.microbatch or price.particles, price.particles)
        own = max(at_once // (1 if planning.topology else num_particle_devices(mesh)), 1)
        rate = measured_rate(built.problem.denoiser, built.prompts, own, price)
        source = f"measured on this {jax.local_devices()[0].platform}"
    if rate:
        seconds = price.flops / rate / devices
        several = f" on each of {devices} devices" if devices > 1 else ""
        found["time"] = f"{_duration(seconds)} at {rate / 1e12:.3g} TFLOP/s{several}, {source}"
    return found


def with_graders(price: Plan, config: Config) -> tuple[Plan, dict[str, str]]:
    """The price with what graders are asked, and a line that says it.

    Args:
        price: as if they were verifiers, asked about every candidate.
        config: of the search.
    """
    guides = [part.name for part in config.guide if part.name in config.graders]
    if not config.graders:
        return price, {}
    wanted = int(price.cost.verifier_calls) // len(config.guide)
    shown = sum(
        stage.rounds * math.ceil(config.grader_fraction * stage.candidates)
        for stage in price.stages
    )
    asked = min(wanted, shown)
    calls = wanted * (len(config.guide) - len(guides)) + asked * len(guides)
    each = [f"{name} {asked + 2 if name in guides else 2:,}" for name in config.graders]
    return price._replace(cost=price.cost._replace(verifier_calls=calls)), {
        "questions": f"{', '.join(each)} per prompt at most, those about the plain and the found "
        f"picture included; {len(config.prompts):,} prompts"
    }


def _memory(topology: str, compiled: Compiled) -> str:
    parts = {
        "arguments": compiled.arguments,
        "results": compiled.results,
        "temporaries": compiled.temporaries,
    }
    listed = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items())
    chip = HBM[topology.split(":")[0]]
    fits = "" if compiled.total <= chip * 2**30 else " (does not fit: take a smaller --microbatch)"
    return (
        f"{topology}, {compiled.devices} chips of {chip} GiB; on each {bytes_text(compiled.total)}"
        f"{fits}: {listed}; {bytes_text(compiled.collectives)} pass between them, each exchange of "
        "the program counted once"
    )


def measured_rate(denoiser: Denoiser, prompts: Prompts, batch: int, price: Plan) -> float:
    """The operations per second of a network pass, by the fastest of a few calls.

    Args:
        denoiser: called with zeros.
        prompts: whose first condition is used.
        batch: latents of a call.
        price: which knows the operations of a pass.
    """
    cond = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], batch, axis=0), prompts.cond)
    latents = jnp.zeros((batch, *denoiser.shape))

    @jax.jit
    def call(denoiser: Denoiser, x: Array, t: Array, cond: PyTree) -> Array:
        return denoiser(x, t, cond).x0

    arguments = (denoiser, latents, jnp.ones((batch,)), cond)
    jax.block_until_ready(call(*arguments))  # compiles
    fastest = float("inf")
    for _ in range(_TIMED):
        begun = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        fastest = min(fastest, time.perf_counter() - begun)
    return price.flops_per_call.network_pass * denoiser.passes * batch / fastest


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds:.3g} seconds"
