"""The cross-entropy method in a random subspace of initial noises."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import fold_in_each, fresh_trajectory, noise_key, repeat, take
from jaxsearch.core.types import (
    Array,
    Evaluation,
    Noise,
    NoiseSpace,
    Proposal,
    Searcher,
    Stage,
)


class State(NamedTuple):
    """The subspace of one prompt and the law that is searched in it."""

    keys: Array  # [M] of the Gaussians that span the subspace
    steps: Noise  # [T, M] the noise injected later, the same for every candidate
    mean: Array  # [M] of the coefficients
    std: Array  # [M]


def cross_entropy(
    *,
    directions: int = 16,
    population: int = 8,
    elites: int = 3,
    generations: int = 8,
    smoothing: float = 0.7,
) -> Searcher:
    """Fits a Gaussian law to the best initial noises of a random subspace, again and again.

    A noise is `sum_m c_m * normal(key_m)` of M fixed Gaussians with `|c| = 1`, so that it is a
    standard Gaussian itself: the search is one for a point on the unit sphere of M dimensions,
    whatever the size of the latent, and the recipe stays that long. In each generation candidates
    `c = mean + std*xi` are brought to the sphere and scored, and mean and standard deviation move
    towards those of the elites by `smoothing`. The first generation is uniform on the sphere, with
    the plain sample as its candidate 0. The noise injected at later steps, where the solver injects
    any, is held fixed. The best sample ever seen is returned.

    The cross-entropy method with normal updating and smoothing of de Boer et al. 2005, *A tutorial
    on the cross-entropy method*; a random subspace in place of the whole space as in Wang et al.
    2016, *Bayesian optimization in a billion dimensions via random embeddings*. The subspace is
    random, not one of low frequencies as in spectral evolution search. Failed scores (-inf) are
    never elites; where all fail the law stays.

    Args:
        directions: M, the dimension of the subspace, at least 2. The best noise in it is the better
            the larger it is, and the longer to find.
        population: K, candidates per generation, at least 1.
        elites: how many of them the law is fitted to, from 1 to `population`.
        generations: at least 1.
        smoothing: how far the law moves to that of the elites, in (0, 1]: 1 forgets the old one.

    Raises:
        ValueError: if a setting is out of its range.
    """
    check_count("directions", directions, 2)
    check_count("population", population)
    check_count("generations", generations)
    check_count("elites", elites)
    if not 1 <= elites <= population:
        raise ValueError(f"elites is {elites}: it must lie in [1, {population}]")
    check_range("smoothing", smoothing, 0.0, 1.0, open_low=True)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        candidates = fold_in_each(key, jnp.arange(directions))
        keys = jax.vmap(lambda candidate: noise_key(space, candidate, 0))(candidates)
        steps = take(fresh_trajectory(space, candidates[0]), slice(1, None))
        # The standard deviation of a coefficient that is uniform on the sphere.
        uniform = jnp.full((directions,), 1 / math.sqrt(directions))
        return State(keys, steps, jnp.zeros((directions,)), uniform)

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            offsets = jax.random.normal(key, (population, directions))
            coefs = state.mean[None] + state.std[None] * offsets
            coefs = coefs / jnp.linalg.norm(coefs, axis=1, keepdims=True)
            plain = (round == 0) & (jnp.arange(population) == 0)
            first = (jnp.arange(directions) == 0).astype(coefs.dtype)
            coefs = jnp.where(plain[:, None], first[None], coefs)
            noise = Noise(repeat(state.keys, population), coefs)
            return Proposal(space.root(noise), repeat(state.steps, population))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round
            score, best = jax.lax.top_k(evaluation.score, elites)
            coefs = proposal.parent.noise.coefs[best, 0]
            counts = jnp.isfinite(score).astype(coefs.dtype)
            # Over those that count; where none do, nothing moves.
            weights = (counts / jnp.maximum(jnp.sum(counts), 1.0))[:, None]
            mean = jnp.sum(weights * coefs, axis=0)
            std = jnp.sqrt(jnp.sum(weights * (coefs - mean[None]) ** 2, axis=0))
            rate = jnp.where(jnp.any(counts > 0), smoothing, 0.0)
            return state._replace(
                mean=state.mean + rate * (mean - state.mean),
                std=state.std + rate * (std - state.std),
            )

        return (Stage(generations, ask_fn, tell_fn),)

    return Searcher("cross_entropy", init_fn, stages_fn, rank=directions)
