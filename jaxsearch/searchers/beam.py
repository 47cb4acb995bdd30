"""Beam search over injected noise: branch every partial sample, keep the best of all."""

from __future__ import annotations

import jax

from jaxsearch.core.checks import check_count
from jaxsearch.core.reuse import reused
from jaxsearch.core.segments import Window, check_segments
from jaxsearch.core.types import Array, Searcher
from jaxsearch.searchers.branching import branching


@reused
def beam(
    *,
    width: int = 2,
    candidates: int = 4,
    every: int = 1,
    window: Window = None,
) -> Searcher:
    """Branches every partial sample with fresh noises and keeps the best children of all.

    Ramesh & Mardani 2025, beam search: B independent starting noises; in each round every beam gets
    N children, and the best B of the N*B by score go on, several of one parent or none. A child
    carries its parent's lineage, so none can be continued from another's. Among equal scores those
    of different parents go first. One beam with one candidate is plain sampling.

    Steps without injected noise, and those outside the window, are passed by the B beams. Children
    are told apart only by a score that has seen their noise: with `first_order`, whose estimate is
    older than its noise, score with `lookahead` or act `every` 2 steps or more.

    Args:
        width: B, partial samples kept, at least 1.
        candidates: N, children of each, at least 1.
        every: solver steps between two selections, at least 1.
        window: lowest and highest noise level (`sigma/alpha`) at which beams branch; null: all.

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise, or none
            inside the window.
    """
    check_count("width", width)
    check_count("candidates", candidates)
    check_segments(every, window)

    def choose(key: Array, score: Array) -> Array:
        del key
        return jax.lax.top_k(score.ravel(), width)[1]  # best first, and the first of equals

    return branching("beam", width, candidates, every, window, choose)
