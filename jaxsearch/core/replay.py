"""Samples from noise recipes alone: replay, and plain sampling."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jaxsearch.core.evaluate import Expansion, expand
from jaxsearch.core.noise import folded, fresh_trajectory, prompt_keys, take
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import (
    Array,
    Noise,
    Particle,
    Problem,
    Prompts,
    Proposal,
    PyTree,
)


def remake(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    finish: Callable[[Array, dict[str, Array]], PyTree],
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Expansion:
    """Makes samples from their recipes [P, T + 1, M] and hands their clean latents to `finish`.

    Arguments as for `expand`; children and outputs are [P, ...].
    """
    space = noise_space(problem, noise.coefs.shape[-1])
    root = space.root(take(noise, (slice(None), None, 0)))
    steps = take(noise, (slice(None), None, slice(1, None)))
    child, output, cost, _ = expand(
        problem, Proposal(root, steps), prompts, finish, microbatch=microbatch, mesh=mesh
    )
    child, output = jax.tree.map(lambda leaf: leaf[:, 0], (child, output))
    return Expansion(child, output, cost)


@functools.partial(jax.jit, static_argnames=("microbatch", "mesh"))
def replay(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Particle:
    """Makes the samples [P] again from their noise recipes [P, T + 1, M] alone."""

    def nothing(latents: Array, context: dict[str, Array]) -> PyTree:
        return ()

    return remake(problem, noise, prompts, nothing, microbatch=microbatch, mesh=mesh).child


def plain_noise(key: Array, problem: Problem, prompts: Prompts) -> Noise:
    """The recipes [P, T + 1, 1] of plain samples: candidate 0 of every searcher under this key."""
    space = noise_space(problem, 1)
    candidates = folded(folded(prompt_keys(key, prompts), 0), 0)
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
