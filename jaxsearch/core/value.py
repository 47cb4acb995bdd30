"""Which clean latent stands for a partial sample when a verifier scores it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsearch.core.noise import select
from jaxsearch.core.types import Array, Particle, Schedule, Value


def _solver_estimate(denoise, schedule: Schedule, particle: Particle) -> tuple[Array, Array]:
    return particle.x0, jnp.zeros_like(particle.step)


def _lookahead(denoise, schedule: Schedule, particle: Particle) -> tuple[Array, Array]:
    times = jnp.asarray(schedule.times, jnp.float32)
    unfinished = particle.step < schedule.num_steps
    # A finished row beside unfinished ones goes along at the last time that is not the clean end.
    step = jnp.minimum(particle.step, schedule.num_steps - 1)
    latents = jax.lax.cond(
        jnp.any(unfinished),
        lambda: select(unfinished, denoise(particle.x, times[step]).x0, particle.x),
        lambda: particle.x,
    )
    return latents, unfinished.astype(jnp.int32)


solver_estimate = Value("solver_estimate", _solver_estimate)
"""The clean estimate that the solver's step made on its way: no further pass. For `heun` the second
evaluation, as in the first paper's published code."""

lookahead = Value("lookahead", _lookahead)
"""One more denoiser call at the state the step led to, `E[x0 | x_{t-1}]`: the score as the first
paper defines it (Ramesh & Mardani 2025, appendix B)."""

VALUES = {value.name: value for value in (solver_estimate, lookahead)}
