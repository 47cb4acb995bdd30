"""What a searcher may know of a problem, and the stages it makes of that."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.noise import realise
from jaxsearch.core.types import (
    Array,
    Noise,
    NoiseSpace,
    Particle,
    Problem,
    Searcher,
    Solver,
    Stage,
)


def initial_scale(solver: Solver) -> float:
    """By what a solver multiplies the initial noise to make its first latent."""
    schedule = solver.schedule
    return float(schedule.process.prior_scale(schedule.times[0]))


def noise_space(problem: Problem, rank: int) -> NoiseSpace:
    """What a searcher of rank `M` may know of a problem.

    Raises:
        ValueError: if the solver visits another process than the denoiser was trained on.
    """
    solver, shape = problem.solver, problem.denoiser.shape
    schedule = solver.schedule
    if schedule.process is not problem.denoiser.process:
        raise ValueError(
            f"the schedule visits a process of kind {schedule.process.name}, but the denoiser has "
            f"its own, of kind {problem.denoiser.process.name}: make it with denoiser.process"
        )
    scale = initial_scale(solver)

    def root(noise: Noise, value: Array | None = None) -> Particle:
        lead = noise.coefs.shape[:-1]
        value = realise(noise, shape) if value is None else value
        keys = jnp.broadcast_to(noise.keys[..., None, :], (*lead, solver.num_steps + 1, rank))
        coefs = jnp.zeros(keys.shape, jnp.float32).at[..., 0, :].set(noise.coefs)
        free = noise.free
        if free is not None:
            free = jnp.stack([free, *[jnp.zeros_like(free)] * solver.num_steps], axis=len(lead))
        memory = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, lead + leaf.shape), solver.memory(shape)
        )
        x = scale * value
        return Particle(
            x, jnp.zeros_like(x), jnp.zeros(lead, jnp.int32), Noise(keys, coefs, free), memory
        )

    with np.errstate(divide="ignore"):  # pure noise has no signal
        levels = tuple((schedule.sigma[:-1] / schedule.alpha[:-1]).tolist())
    return NoiseSpace(shape, solver.num_steps, solver.active, levels, rank, root)


def stages_of(searcher: Searcher, problem: Problem) -> tuple[Stage, ...]:
    """The stages a searcher goes through on a problem.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    stages = searcher.stages(noise_space(problem, searcher.rank))
    for stage in stages:
        if {turn.rounds for turn in stage.turns} != {stage.rounds}:
            raise ValueError(f"{searcher.name}: stages that take turns have different rounds")
    return stages


def with_first(stages: tuple[Stage, ...]) -> list[tuple[Stage, int]]:
    """Each stage with the number of rounds before it."""
    rounds = [stage.rounds * len(stage.turns) for stage in stages]
    ends = itertools.accumulate(rounds)
    return [(stage, end - num) for stage, num, end in zip(stages, rounds, ends, strict=True)]


def num_rounds(stages: tuple[Stage, ...]) -> int:
    """`R`, the rounds of a search that goes through these stages."""
    return sum(stage.rounds * len(stage.turns) for stage in stages)
