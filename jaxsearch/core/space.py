"""What a searcher may know of a problem, and the stages it makes of that."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.aggregate import compared
from jaxsearch.core.early import renewed
from jaxsearch.core.noise import realise
from jaxsearch.core.types import (
    Array,
    Legs,
    Noise,
    NoiseSpace,
    Particle,
    Problem,
    PyTree,
    Schedule,
    Searcher,
    Solver,
    Stage,
)
from jaxsearch.core.value import solver_estimate


def initial_scale(solver: Solver) -> float:
    """By what a solver multiplies the initial noise to make its first latent."""
    schedule = solver.schedule
    return float(schedule.process.prior_scale(schedule.times[0]))


def renoising(schedule: Schedule) -> np.ndarray:
    """`keep` and `add` [2, T + 1, T + 1] by the steps from and to which a latent is renoised.

        x_j = keep*x_i + add*noise,  keep = alpha_j/alpha_i,  add^2 = sigma_j^2 - keep^2*sigma_i^2

    is the forward process from point `i` to a noisier one `j` (Kingma et al. 2021, *Variational
    diffusion models*, appendix A.1), float64. From a point to itself nothing changes; where a
    latent would lose noise there is no such process, and both are `nan`.
    """
    alpha, sigma = schedule.alpha, schedule.sigma
    with np.errstate(divide="ignore", invalid="ignore"):
        keep = alpha[None, :] / alpha[:, None]
        add = np.sqrt(sigma[None, :] ** 2 - keep**2 * sigma[:, None] ** 2)
    coefficients = np.stack([keep, add])
    coefficients[:, np.triu(np.ones_like(keep, bool))] = np.nan
    steps = np.arange(len(alpha))
    coefficients[:, steps, steps] = [[1.0], [0.0]]
    return coefficients


def noise_space(problem: Problem, rank: int, renoisings: int = 0) -> NoiseSpace:
    """What a searcher of rank `M` whose particles are renoised up to `B` times may know.

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

    def memory(lead: tuple[int, ...]) -> PyTree:
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, lead + leaf.shape), solver.memory(shape)
        )

    def root(noise: Noise, value: Array | None = None) -> Particle:
        lead = noise.coefs.shape[:-1]
        value = realise(noise, shape) if value is None else value
        keys = jnp.broadcast_to(noise.keys[..., None, :], (*lead, solver.num_steps + 1, rank))
        coefs = jnp.zeros(keys.shape, jnp.float32).at[..., 0, :].set(noise.coefs)
        free = noise.free
        if free is not None:
            free = jnp.stack([free, *[jnp.zeros_like(free)] * solver.num_steps], axis=len(lead))
        x = scale * value
        lineage = Noise(keys, coefs, free)
        nothing, step = jnp.zeros_like(x), jnp.zeros(lead, jnp.int32)
        return Particle(x, nothing, step, lineage, memory(lead), no_legs(lineage))

    def no_legs(lineage: Noise) -> Legs | None:
        if not renoisings:
            return None
        axis = lineage.coefs.ndim - 2
        noise = jax.tree.map(
            lambda leaf: jnp.repeat(jnp.expand_dims(leaf, axis), renoisings, axis), lineage
        )
        nowhere = jnp.zeros(noise.coefs.shape[:-2], jnp.int32)
        return Legs(noise._replace(coefs=jnp.zeros_like(noise.coefs)), nowhere, nowhere)

    def renoise(particle: Particle, step: Array | int, noise: Noise) -> Particle:
        if particle.legs is None:
            raise ValueError(
                "a searcher that renoises must say how often: give its Searcher renoisings"
            )
        step = jnp.broadcast_to(jnp.asarray(step, jnp.int32), particle.step.shape)
        table = jnp.asarray(renoising(schedule), jnp.float32)[:, particle.step, step]
        keep, add = table.reshape(table.shape + (1,) * len(shape))
        rows = jax.tree.map(lambda old, row: old.at[..., 0, :].set(row), particle.noise, noise)
        axis = step.ndim
        legs = jax.tree.map(
            lambda old, new: jnp.concatenate(
                [jax.lax.slice_in_dim(old, 1, None, axis=axis), jnp.expand_dims(new, axis)], axis
            ),
            particle.legs,
            Legs(rows, end=particle.step, back=step),
        )
        # Of the way that has ended only the initial noise stays, and nothing that a solver knew.
        coefs = particle.noise.coefs.at[..., 1:, :].set(0.0)
        return Particle(
            keep * particle.x + add * realise(noise, shape),
            particle.x0,
            step,
            particle.noise._replace(coefs=coefs),
            renewed(memory(step.shape), particle.memory),
            legs,
        )

    return NoiseSpace(
        shape,
        solver.num_steps,
        solver.active,
        tuple(schedule.levels.tolist()),
        rank,
        root,
        renoise,
        len(problem.objective.verifiers),
        functools.partial(compared, problem.objective.aggregate),
        solver.late_noise and problem.value is solver_estimate(),
    )


def stages_of(searcher: Searcher, problem: Problem) -> tuple[Stage, ...]:
    """The stages a searcher goes through on a problem.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    stages = searcher.stages(noise_space(problem, searcher.rank, searcher.renoisings))
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
