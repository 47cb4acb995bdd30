"""Soft value-based decoding: every particle draws its next step from several, by their values."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.reuse import reused
from jaxsearch.core.segments import Window, check_segments
from jaxsearch.core.types import Array, Searcher
from jaxsearch.searchers.branching import branching


@reused
def svdd(
    *,
    particles: int = 4,
    candidates: int = 4,
    temperature: float = 0.0,
    every: int = 1,
    window: Window = None,
) -> Searcher:
    """Lets every particle choose its next noise from several, softly by score.

    Li et al. 2024, *Derivative-free guidance in continuous and discrete diffusion models with soft
    value-based decoding*, algorithm 1 with the posterior mean as the value (SVDD-PM): of the M
    children of a particle one goes on, drawn with probability proportional to
    `exp(score / temperature)`. With many children and an exact value every step follows the law
    tilted by `exp(reward / temperature)`; the initial noise is not tilted. Particles never compete,
    so they stay independent samples, unlike those of `smc`. One candidate is plain sampling.

    Steps without injected noise, and those outside the window, are passed plainly. Children are
    told apart only by a score that has seen their noise: with `first_order`, whose estimate is
    older than its noise, score with `lookahead` or act `every` 2 steps or more.

    Args:
        particles: K, independent samples per prompt, at least 1. The best one is the result; all
            are in the searcher's state.
        candidates: M, children of each in a round, at least 1.
        temperature: alpha, in units of the score, 0 or more; 0 takes the best child.
        every: solver steps between two choices, at least 1.
        window: lowest and highest noise level (`sigma/alpha`) at which to choose; null: all.

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise, or none
            inside the window.
    """
    check_count("particles", particles)
    check_count("candidates", candidates)
    check_range("temperature", temperature, 0.0, open_high=True)
    check_segments(every, window)

    def choose(key: Array, score: Array) -> Array:
        # The largest of score + temperature*Gumbel is a draw from softmax(score/temperature), and
        # at temperature 0 simply the best.
        noisy = score + temperature * jax.random.gumbel(key, score.shape)
        return jnp.argmax(noisy, axis=0) * particles + jnp.arange(particles)

    return branching("svdd", particles, candidates, every, window, choose)
