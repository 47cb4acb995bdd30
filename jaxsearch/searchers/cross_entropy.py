"""The cross-entropy method in a subspace of initial noises."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import (
    draw,
    fresh,
    fresh_trajectory,
    length,
    noise_key,
    repeat,
    take,
)
from jaxsearch.core.random import fold_in, normal
from jaxsearch.core.reuse import reused
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

    keys: Array  # [M] of the Gaussians that span a random subspace; the first is the plain noise's
    plain: Array  # [M] the coefficients of the plain noise
    steps: Noise  # [T, ...] the noise injected later, the same for every candidate
    mean: Array  # [M] of the coefficients
    std: Array  # [M]


@reused
def cross_entropy(
    *,
    directions: int = 16,
    population: int = 8,
    elites: int = 3,
    generations: int = 8,
    smoothing: float = 0.7,
    subspace: Literal["random", "low_frequency"] = "random",
) -> Searcher:
    """Fits a Gaussian law to the best initial noises of a subspace, again and again.

    The search is one for a point `c` on the unit sphere of M dimensions, whatever the size of the
    latent. In each generation candidates `c = mean + std*xi` are brought to the sphere and scored,
    and mean and standard deviation move towards those of the elites by `smoothing`. The first
    generation is uniform on the sphere, with the plain sample as its candidate 0. The noise
    injected at later steps, where the solver injects any, is held fixed. The best sample ever seen
    is returned.

    A noise of the random subspace is `sum_m c_m * normal(key_m)` of M fixed Gaussians, and so a
    standard Gaussian itself, described by its keys. One of the low-frequency subspace is the plain
    noise, whose M cosine coefficients of lowest frequency are replaced by `sqrt(M) * c`: as large
    as they are in a Gaussian.

    The cross-entropy method with normal updating and smoothing of de Boer et al. 2005, *A tutorial
    on the cross-entropy method*; a random subspace in place of the whole space as in Wang et al.
    2016, *Bayesian optimization in a billion dimensions via random embeddings*; low frequencies,
    which decide most of a picture, as in spectral evolution search. Failed scores (-inf) are never
    elites; where all fail the law stays.

    Args:
        directions: M, the dimension of the subspace, at least 2. The best noise in it is the better
            the larger it is, and the longer to find.
        population: K, candidates per generation, at least 1.
        elites: how many of them the law is fitted to, from 1 to `population`.
        generations: at least 1.
        smoothing: how far the law moves to that of the elites, in (0, 1]: 1 forgets the old one.
        subspace: `"random"`: of M Gaussians. `"low_frequency"`: of the M cosine patterns (DCT-II
            over the axes but the last, for each channel) of lowest frequency, no more of them
            than a latent has numbers.

    Raises:
        ValueError: if a setting is out of its range; if there are more low-frequency directions
            than a latent has numbers.
    """
    check_count("directions", directions, 2)
    check_count("population", population)
    check_count("generations", generations)
    check_count("elites", elites)
    if not 1 <= elites <= population:
        raise ValueError(f"elites is {elites}: it must lie in [1, {population}]")
    check_range("smoothing", smoothing, 0.0, 1.0, open_low=True)
    if subspace not in ("random", "low_frequency"):
        raise ValueError(f"unknown subspace {subspace!r}: take 'random' or 'low_frequency'")
    random = subspace == "random"
    rank = directions if random else 1

    def init_fn(space: NoiseSpace, key: Array) -> State:
        size = math.prod(space.shape)
        # A price is counted on a latent of one number.
        if not random and directions > size > 1:
            raise ValueError(
                f"directions is {directions}, but a latent of {space.shape} has only {size} "
                "numbers: take fewer directions"
            )
        candidates = fold_in(key, jnp.arange(directions))
        keys = jax.vmap(lambda candidate: noise_key(space, candidate, 0))(candidates)
        steps = take(fresh_trajectory(space, candidates[0]), slice(1, None))
        plain = (jnp.arange(directions) == 0).astype(jnp.float32)
        if not random:
            steps = steps._replace(free=jnp.zeros((space.num_steps, *space.shape)))
            noise = draw(keys[0], space.shape).ravel()
            plain = jnp.asarray(cosines(space.shape, directions)) @ noise / math.sqrt(directions)
        # The standard deviation of a coefficient that is uniform on the sphere.
        uniform = jnp.full((directions,), 1 / math.sqrt(directions))
        return State(keys, plain, steps, jnp.zeros((directions,)), uniform)

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        patterns = None if random else jnp.asarray(cosines(space.shape, directions))

        def noises(state: State, coefs: Array) -> Noise:
            """The recipes [K, ...] of points [K, M] of the subspace."""
            if patterns is None:
                return Noise(repeat(state.keys, population), coefs)
            shift = math.sqrt(directions) * (coefs - state.plain[None]) @ patterns
            noise = fresh(repeat(state.keys[0], population), 1)
            return noise._replace(free=shift.reshape((population, *space.shape)))

        def coefficients(state: State, noise: Noise) -> Array:
            """The points [n, M] that recipes [n, ...] stand for."""
            if patterns is None or noise.free is None:
                return noise.coefs
            shift = noise.free.reshape((noise.free.shape[0], -1)) @ patterns.T
            return state.plain[None] + shift / math.sqrt(directions)

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            offsets = normal(key, population * directions).reshape(population, directions)
            coefs = state.mean[None] + state.std[None] * offsets
            coefs = coefs / jax.vmap(length)(coefs)[:, None]
            plain = (round == 0) & (jnp.arange(population) == 0)
            noise = noises(state, jnp.where(plain[:, None], state.plain[None], coefs))
            return Proposal(space.root(noise), repeat(state.steps, population))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round
            score, best = jax.lax.top_k(evaluation.score, elites)
            coefs = coefficients(state, take(proposal.parent.noise, (best, 0)))
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

    return Searcher("cross_entropy", init_fn, stages_fn, rank=rank, free=not random)


@functools.cache
def cosines(shape: tuple[int, ...], num: int) -> np.ndarray:
    """Orthonormal cosine patterns [num, d] of a latent of this shape, the lowest frequencies first.

    DCT-II over all axes but the last, whose channels have patterns of their own. Where a latent has
    fewer numbers than that, the rest are zeros.
    """
    sizes, channels = shape[:-1], shape[-1]
    every = itertools.product(*map(range, sizes), range(channels))
    order = sorted(every, key=lambda at: sum((k / n) ** 2 for k, n in zip(at, sizes, strict=False)))
    found = np.zeros((num, math.prod(shape)), np.float32)
    for place, (*frequencies, channel) in enumerate(order[:num]):
        pattern = np.eye(channels)[channel]
        for k, n in reversed(list(zip(frequencies, sizes, strict=True))):
            wave = np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
            pattern = np.multiply.outer(wave / np.linalg.norm(wave), pattern)
        found[place] = pattern.ravel()
    return found
