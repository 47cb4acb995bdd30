"""Early stop: a search that ends for a prompt once its sample is good enough."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from jaxsearch.core.checks import check_range
from jaxsearch.core.noise import select
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import (
    Array,
    Evaluation,
    NoiseSpace,
    Proposal,
    PyTree,
    Searcher,
    Stage,
)


class State(NamedTuple):
    """A search and whether it is over."""

    inner: PyTree
    best: Array  # [] of the finished samples so far


@reused
def early_stop(searcher: Searcher, *, threshold: float) -> Searcher:
    """The same search, which rests for a prompt once a finished sample scores the threshold.

    A prompt that rests costs nothing more, and where all that run together rest, nothing is
    computed. Rounds of the others go on unchanged, to the bit.

    Args:
        searcher: any.
        threshold: a score, in the units of the objective.

    Raises:
        ValueError: if the threshold is not finite.
    """
    check_range("threshold", threshold)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        return State(searcher.init(space, key), jnp.float32(-jnp.inf))

    def wrapped(space: NoiseSpace, stage: Stage) -> Stage:
        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            proposal = stage.ask(key, round, state.inner)
            num_candidates, num_steps = proposal.noise.coefs.shape[:2]
            steps = jnp.full((num_candidates,), num_steps, jnp.int32)
            steps = steps if proposal.steps is None else proposal.steps
            return proposal._replace(steps=jnp.where(state.best >= threshold, 0, steps))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            inner = stage.tell(key, round, state.inner, proposal, evaluation)
            finished = evaluation.child.step == space.num_steps
            best = jnp.max(jnp.where(finished, evaluation.score, -jnp.inf))
            after = State(inner, jnp.maximum(state.best, best))
            return select(state.best >= threshold, state, after)

        then = None if stage.then is None else wrapped(space, stage.then)
        return stage._replace(ask=ask_fn, tell=tell_fn, then=then)

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        return tuple(wrapped(space, stage) for stage in searcher.stages(space))

    return searcher._replace(
        init=init_fn,
        stages=stages_fn,
        absolute_scores="with early_stop holds scores against a threshold",
        adaptive=True,
    )
