"""Samples from noise recipes alone: replay, and plain sampling."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsearch.core.evaluate import Expansion, expand
from jaxsearch.core.noise import fresh_trajectory, prompt_keys, take
from jaxsearch.core.random import fold_in
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import (
    Array,
    Cost,
    Legs,
    Noise,
    NoiseSpace,
    Particle,
    Problem,
    Prompts,
    Proposal,
    PyTree,
)
from jaxsearch.core.value import solver_estimate


def remake(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    finish: Callable[[Problem, Array, dict[str, Array]], PyTree],
    *,
    legs: Legs | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Expansion:
    """Makes samples from their recipes [P, T + 1, M] and hands their clean latents to `finish`.

    Arguments as for `expand`; children and outputs are [P, ...]. `legs` [P, B] are the ways before
    the last renoising, where there was one.
    """
    space, parent, steps, before = _departed(
        problem, noise, prompts, legs=legs, microbatch=microbatch, mesh=mesh
    )
    proposal = Proposal(parent, steps)
    if legs is not None:
        proposal = _onwards(space, parent, steps, jnp.full_like(parent.step, space.num_steps))
    child, output, cost, _ = expand(
        problem, proposal, prompts, finish, microbatch=microbatch, mesh=mesh
    )
    child, output = jax.tree.map(lambda leaf: leaf[:, 0], (child, output))
    if before is not None:
        cost = jax.tree.map(jnp.add, before, cost)
    return Expansion(child, output, cost)


def retrace(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    finish: Callable[[Problem, Array, dict[str, Array]], PyTree],
    *,
    legs: Legs | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[PyTree, Array]:
    """The way that samples have gone: what `finish` says after each of their solver steps.

    It gets what stands for a partial sample when it is scored, the latent that the problem's value
    gives. Of samples that were renoised this is the way after the last time.

    Arguments are those of `remake`.

    Returns:
        The outputs [T, P, ...], and whether the sample took the step [T, P]; where it did not, the
        output says nothing.
    """
    space, parent, steps, _ = _departed(
        problem, noise, prompts, legs=legs, microbatch=microbatch, mesh=mesh
    )

    def one(parent: Particle, index: Array) -> tuple[Particle, tuple[PyTree, Array]]:
        goes = parent.step == index
        proposal = Proposal(
            parent,
            take(steps, (slice(None), slice(None), index[None])),
            steps=None if legs is None else goes.astype(jnp.int32),
        )
        child, output, _, _ = expand(
            problem, proposal, prompts, finish, microbatch=microbatch, mesh=mesh
        )
        return child, jax.tree.map(lambda leaf: leaf[:, 0], (output, goes))

    return jax.lax.scan(one, parent, jnp.arange(space.num_steps))[1]


def _departed(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    *,
    legs: Legs | None,
    microbatch: int | None,
    mesh: Mesh | None,
) -> tuple[NoiseSpace, Particle, Noise, Cost | None]:
    """Where samples [P, 1] set out for the last time, the noises [P, 1, T, M] of all their steps,
    and the cost of what was before, if there was anything.
    """
    space = noise_space(problem, noise.coefs.shape[-1], 0 if legs is None else legs.end.shape[1])
    root = space.root(take(noise, (slice(None), None, 0)))
    steps = take(noise, (slice(None), None, slice(1, None)))
    if legs is None:
        return space, root, steps, None
    parent, before = _gone(space, problem, root, legs, prompts, microbatch=microbatch, mesh=mesh)
    return space, parent, steps, before


def _onwards(space: NoiseSpace, parent: Particle, steps: Noise, end: Array) -> Proposal:
    """Particles [P, 1] taken on to steps [P, 1] by noises [P, 1, T, M], one per solver step."""

    def next_first(noise: Noise, step: Array) -> Noise:
        return take(noise, jnp.minimum(step + jnp.arange(space.num_steps), space.num_steps - 1))

    noise = jax.vmap(jax.vmap(next_first))(steps, parent.step)
    return Proposal(parent, noise, steps=end - parent.step)


def _gone(
    space: NoiseSpace,
    problem: Problem,
    root: Particle,
    legs: Legs,
    prompts: Prompts,
    *,
    microbatch: int | None,
    mesh: Mesh | None,
) -> tuple[Particle, Cost]:
    """Particles [P, 1] that have gone their legs [P, B] from the root, and the cost of that."""
    # Nobody looks at what stands for them on the way.
    moving = dataclasses.replace(problem, value=solver_estimate())

    def one(parent: Particle, leg: Legs) -> tuple[Particle, Cost]:
        renoising, steps = (
            take(leg.noise, (slice(None), slice(None), i)) for i in (0, slice(1, None))
        )
        proposal = _onwards(space, parent, steps, leg.end)
        child, _, cost, _ = expand(
            moving, proposal, prompts, lambda *_: (), microbatch=microbatch, mesh=mesh
        )
        return space.renoise(child, leg.back, renoising), cost

    in_turn = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0)[:, :, None], legs)
    particle, costs = jax.lax.scan(one, root, in_turn)
    return particle, jax.tree.map(lambda rows: jnp.sum(rows, axis=0), costs)


@functools.partial(jax.jit, static_argnames=("microbatch", "mesh"))
def replay(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    *,
    legs: Legs | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Particle:
    """Makes the samples [P] again from their noise recipes alone.

    Args:
        problem: denoiser, solver, objective and value.
        noise: [P, T + 1, M] of the particles.
        prompts: [P].
        legs: [P, B] of the particles, where they have any; without them the sample is another.
        microbatch: particles run at once over all devices; None runs all of them.
        mesh: devices, with an axis named "particle"; None leaves placement to JAX.
    """

    def nothing(problem: Problem, latents: Array, context: dict[str, Array]) -> PyTree:
        return ()

    return remake(
        problem, noise, prompts, nothing, legs=legs, microbatch=microbatch, mesh=mesh
    ).child


def plain_noise(key: Array, problem: Problem, prompts: Prompts) -> Noise:
    """The recipes [P, T + 1, 1] of plain samples: candidate 0 of every searcher under this key."""
    space = noise_space(problem, 1)
    candidates = fold_in(fold_in(prompt_keys(key, prompts), 0), 0)
    return jax.vmap(lambda candidate: fresh_trajectory(space, candidate))(candidates)


def sample(
    key: Array,
    problem: Problem,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Particle:
    """Plain samples [P], without a search."""
    noise = plain_noise(key, problem, prompts)
    return replay(problem, noise, prompts, microbatch=microbatch, mesh=mesh)
