"""Rollover budget forcing: a step ends once it has improved, and what it did not spend moves on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from jaxsearch.core.checks import check_count
from jaxsearch.core.noise import (
    first_candidates,
    fresh_branches,
    repeat,
    require_sight,
    select,
    take,
)
from jaxsearch.core.reuse import reused
from jaxsearch.core.segments import Segment, Window, check_segments, segments
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
    """One prompt's partial sample and what is left to spend on its next segment."""

    keys: Array  # [1] of the candidate whose noises it draws
    particle: Particle  # [...] before the current segment
    scores: Array  # [V] by guide of the particle, when it was chosen
    chosen: Array  # [] bool, whether it was: before the first choice there is nothing to beat
    best: Particle  # [...] child of the current segment so far
    best_scores: Array  # [V]
    segment: Array  # [] int32, the current one; their number at the end
    tried: Array  # [] int32, children of the current segment so far
    left: Array  # [] int32, children that may still be tried before the segment has to end


@reused
def rollover(*, quota: int = 4, every: int = 1, window: Window = None) -> Searcher:
    """Tries noises at each step until one improves on the sample; unspent tries move on.

    Kim et al. 2025, *Inference-time scaling for flow models via stochastic generation and rollover
    budget forcing*. Every step has a quota of noises to try, one in a round. A child that scores
    higher than its parent did is taken at once, and the rest of the quota is added to the next
    step's; when the quota is used up, the best child is taken. The first searched step has nothing
    to beat and uses its quota. What is left after the last step is not spent. A quota of 1 is plain
    sampling.

    Steps without injected noise, and those outside the window, are passed plainly. Prompts are at
    different steps in one round.

    Args:
        quota: Q, noises that each searched segment adds to what may be tried, at least 1.
        every: solver steps between two choices, at least 1.
        window: lowest and highest noise level (`sigma/alpha`) at which to choose; null: all.

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise, or none
            inside the window.
    """
    check_count("quota", quota)
    check_segments(every, window)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        keys, particles = first_candidates(space, key, 1)
        particle = take(particles, 0)
        zero = jnp.int32(0)
        left = jnp.int32(quotas(divide(space))[0])
        unknown = jnp.full((space.num_guides,), -jnp.inf)
        return State(keys, particle, unknown, jnp.bool_(False), particle, unknown, zero, zero, left)

    def divide(space: NoiseSpace) -> tuple[Segment, ...]:
        require_sight(space, "rollover", every)
        return segments(space, every=every, window=window, what="rollover")

    def quotas(divided: tuple[Segment, ...]) -> list[int]:
        """By segment."""
        return [quota if segment.searched else 1 for segment in divided]

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        divided = divide(space)
        num, tries = len(divided), quotas(divided)
        # After the last segment a particle rests at the end of all.
        begins = jnp.asarray([*(segment.begin for segment in divided), space.num_steps])
        lengths = jnp.asarray([*(segment.num_steps for segment in divided), 0])
        searched = jnp.asarray([*(segment.searched for segment in divided), False])
        added = jnp.asarray([*tries, 0])
        longest = max(segment.num_steps for segment in divided)

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key, round  # noises hang on the candidate's key
            begin = begins[state.segment]
            noise = fresh_branches(space, state.keys, begin, longest, first_draw=state.tried)
            return Proposal(repeat(state.particle, 1), noise, steps=lengths[state.segment][None])

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            child, scores = take((evaluation.child, evaluation.scores), 0)
            score, best_score, parent_score = space.compare(
                jnp.stack([scores, state.best_scores, state.scores])
            )
            chooses = searched[state.segment]
            beats = (score > best_score) | (state.tried == 0)
            best, best_scores = select(beats, (child, scores), (state.best, state.best_scores))
            left = state.left - 1
            again = state._replace(
                best=best, best_scores=best_scores, tried=state.tried + 1, left=left
            )
            after = again._replace(
                particle=best,
                scores=jnp.where(chooses, best_scores, state.scores),
                chosen=state.chosen | chooses,
                best_scores=jnp.full_like(best_scores, -jnp.inf),
                segment=state.segment + 1,
                tried=jnp.int32(0),
                left=left + added[state.segment + 1],
            )
            ends = ~chooses | (state.chosen & (score > parent_score)) | (left == 0)
            return select(state.segment == num, state, select(ends, after, again))

        def most_calls(calls: Sequence[int]) -> int:
            """Every quota moves on to the dearest segment there is, but for the first one's."""
            prices = [sum(calls[segment.begin : segment.end]) for segment in divided]
            places = [place for place, segment in enumerate(divided) if segment.searched]
            dearest = [max(prices[later] for later in places if later >= one) for one in places]
            return sum(prices) + (quota - 1) * (prices[places[0]] + sum(dearest[1:]))

        return (Stage(sum(tries), ask_fn, tell_fn, most_calls=most_calls),)

    return Searcher("rollover", init_fn, stages_fn, adaptive=True)
