"""Successive halving: many trajectories begin, and the worse half is dropped again and again."""

from __future__ import annotations

import math

import jax

from jaxsearch.core.checks import check_count, check_fixed, check_range
from jaxsearch.core.noise import first_candidates, fresh_branches, take
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import (
    Array,
    Evaluation,
    NoiseSpace,
    Particle,
    Proposal,
    Searcher,
    Stage,
)


@reused
def halving(*, candidates: int = 16, keep: float = 0.5, rungs: int = 3) -> Searcher:
    """Begins many plain trajectories and goes on with the better part of them, rung by rung.

    Successive halving (Jamieson & Talwalkar 2016) of sampling trajectories: the `T` steps are
    divided into `rungs + 1` stretches, as even as can be; after each but the last, particles are
    scored as they stand and the best `ceil(keep * K)` go on. It spends on N trajectories about what
    best-of-N spends on fewer, and is worth it where early scores foretell late ones: with the value
    `lookahead` or `rollout` they do so better. Without rungs it is best-of-N, and its candidates
    are the same; one candidate is plain sampling.

    Args:
        candidates: N, trajectories that begin, at least 1.
        keep: the share that goes on after each rung, in (0, 1].
        rungs: how often some are dropped, 0 to `T - 1`.

    Raises:
        ValueError: if a setting is out of its range; if there are more rungs than places for them.
    """
    check_count("candidates", candidates)
    check_fixed("keep", keep)
    check_range("keep", keep, 0.0, 1.0, open_low=True)
    check_count("rungs", rungs, 0)

    def init_fn(space: NoiseSpace, key: Array) -> tuple[Array, Particle]:
        # Of the same structure throughout: the places of dropped particles stay empty.
        return first_candidates(space, key, candidates)

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        if rungs >= space.num_steps:
            raise ValueError(
                f"rungs is {rungs}, but between {space.num_steps} steps there are only "
                f"{space.num_steps - 1} places for them"
            )
        bounds = [round(i * space.num_steps / (rungs + 1)) for i in range(rungs + 2)]
        return tuple(stage(space, rung, *bounds[rung : rung + 2]) for rung in range(rungs + 1))

    def stage(space: NoiseSpace, rung: int, begin: int, end: int) -> Stage:
        alive = candidates
        for _ in range(rung):
            alive = math.ceil(keep * alive)
        going_on = math.ceil(keep * alive)

        def ask_fn(key: Array, round: Array, state: tuple[Array, Particle]) -> Proposal:
            del key, round  # noises hang on the candidates' own keys
            keys, particles = take(state, slice(0, alive))
            return Proposal(particles, fresh_branches(space, keys, begin, end - begin))

        def tell_fn(
            key: Array,
            round: Array,
            state: tuple[Array, Particle],
            proposal: Proposal,
            evaluation: Evaluation,
        ) -> tuple[Array, Particle]:
            del key, round, proposal
            _, best = jax.lax.top_k(evaluation.score, going_on)  # the first of equals
            chosen = (take(state[0], best), take(evaluation.child, best))
            return jax.tree.map(lambda old, new: old.at[:going_on].set(new), state, chosen)

        return Stage(1, ask_fn, tell_fn, finishes=end == space.num_steps)

    return Searcher("halving", init_fn, stages_fn)
