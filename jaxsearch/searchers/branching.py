"""What beam search and SVDD share: fresh children of every partial sample, some of which go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxsearch.core.noise import first_candidates, fresh_branches, require_sight, take
from jaxsearch.core.segments import Segment, Window, runs, segments
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
    """The partial samples of one prompt."""

    keys: Array  # [K] of the candidates whose noises the places draw from
    particles: Particle  # [K, ...]


def branching(
    name: str,
    particles: int,
    candidates: int,
    every: int,
    window: Window,
    choose: Callable[[Array, Array], Array],
) -> Searcher:
    """Branches K particles into M fresh children each, round by round, and keeps K of the children.

    `choose(key, score [M, K])` names the K that go on, each by its place in the flattened scores.
    Steps without injected noise and those outside the window are passed with one child each.
    """

    def init_fn(space: NoiseSpace, key: Array) -> State:
        return State(*first_candidates(space, key, particles))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        require_sight(space, name, every)
        divided = segments(space, every=every, window=window, what=name)
        return tuple(stage(space, run) for run in runs(divided))

    def stage(space: NoiseSpace, run: tuple[Segment, ...]) -> Stage:
        begins = jnp.asarray([segment.begin for segment in run])
        num_children = candidates if run[0].searched else 1
        # Child m of particle k is number m*K + k.
        parent = jnp.arange(num_children * particles) % particles

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key  # noises hang on the candidates' keys
            noise = fresh_branches(space, state.keys, begins[round], run[0].num_steps, num_children)
            return Proposal(take(state.particles, parent), noise)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del round, proposal
            chosen = choose(key, evaluation.score.reshape(num_children, particles))
            return State(state.keys, take(evaluation.child, chosen))

        return Stage(len(run), ask_fn, tell_fn, finishes=run[-1].end == space.num_steps)

    return Searcher(name, init_fn, stages_fn)
