"""What a searcher may know of a problem, and the stages it makes of that."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.noise import realise
from jaxsearch.core.types import Array, Noise, NoiseSpace, Particle, Problem, Searcher, Stage


def noise_space(problem: Problem, rank: int) -> NoiseSpace:
    """What a searcher of rank `M` may know of a problem."""
    solver, shape = problem.solver, problem.denoiser.shape
    schedule = solver.schedule
    scale = float(schedule.process.prior_scale(schedule.times[0]))

    def root(noise: Noise, value: Array | None = None) -> Particle:
        lead = noise.coefs.shape[:-1]
        value = realise(noise, shape) if value is None else value
        keys = jnp.broadcast_to(noise.keys[..., None, :], (*lead, solver.num_steps + 1, rank))
        coefs = jnp.zeros(keys.shape, jnp.float32).at[..., 0, :].set(noise.coefs)
        memory = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, lead + leaf.shape), solver.memory(shape)
        )
        x = scale * value
        return Particle(
            x, jnp.zeros_like(x), jnp.zeros(lead, jnp.int32), Noise(keys, coefs), memory
        )

    with np.errstate(divide="ignore"):  # pure noise has no signal
        levels = tuple((schedule.sigma[:-1] / schedule.alpha[:-1]).tolist())
    return NoiseSpace(shape, solver.num_steps, solver.active, levels, rank, root)


def stages_of(searcher: Searcher, problem: Problem) -> tuple[Stage, ...]:
    """The stages a searcher goes through on a problem.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    return searcher.stages(noise_space(problem, searcher.rank))


def with_first(stages: tuple[Stage, ...]) -> list[tuple[Stage, int]]:
    """Each stage with the number of rounds before it."""
    ends = itertools.accumulate(stage.rounds for stage in stages)
    return [(stage, end - stage.rounds) for stage, end in zip(stages, ends, strict=True)]
