"""Beam search over injected noise: branch every partial sample, keep the best of all."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count
from jaxsearch.core.noise import first_candidates, fresh_branches, take
from jaxsearch.core.segments import Segment, Window, check_segments, runs, segments
from jaxsearch.core.types import (
    Array,
    Evaluation,
    NoiseSpace,
    Particle,
    Proposal,
    Searcher,
    Stage,
)


class State(NamedTuple):
    """The beams of one prompt."""

    keys: Array  # [B] of the candidates whose noises the places draw from
    beams: Particle  # [B, ...] best first


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

    def init_fn(space: NoiseSpace, key: Array) -> State:
        return State(*first_candidates(space, key, width))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        divided = segments(space, every=every, window=window, what="beam")
        return tuple(stage(space, run) for run in runs(divided))

    def stage(space: NoiseSpace, run: tuple[Segment, ...]) -> Stage:
        begins = jnp.asarray([segment.begin for segment in run])
        num_children = candidates if run[0].searched else 1
        # Child n of beam b is number n*B + b.
        parent = jnp.arange(num_children * width) % width

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key  # noises hang on the candidates' keys
            noise = fresh_branches(space, state.keys, begins[round], run[0].num_steps, num_children)
            return Proposal(take(state.beams, parent), noise)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            _, best = jax.lax.top_k(evaluation.score, width)  # the first of equals
            return State(state.keys, take(evaluation.child, best))

        return Stage(len(run), ask_fn, tell_fn, finishes=run[-1].end == space.num_steps)

    return Searcher("beam", init_fn, stages_fn)
