"""Zero-order search on the initial noise: hill-climbing by random neighbours."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import (
    add_term,
    draw,
    fresh_trajectory,
    realise,
    repeat,
    select,
    take,
)
from jaxsearch.core.random import fold_in
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
    """The pivot of one prompt."""

    steps: Noise  # [T, M] the noise injected later, the same for every candidate
    pivot: Noise  # [M]
    value: Array  # [*E] the pivot, drawn
    scores: Array  # [V] by guide, -inf while they are not known


@reused
def zero_order(
    *,
    neighbours: int = 4,
    iterations: int = 20,
    geometry: Literal["cosine", "distance"] = "cosine",
    step: float = 0.95,
    elitist: bool = False,
) -> Searcher:
    """Climbs from one initial noise to the best of its random neighbours, again and again.

    Zero-order search of Ma et al. 2025 (section 3.2, "ZO-N"), on finished samples. The noise
    injected at later steps, where the solver injects any, is held fixed. The best sample ever seen
    is returned, whichever pivot came last.

    Args:
        neighbours: N, neighbours per iteration, at least 1.
        iterations: K, at least 1.
        geometry: where neighbours lie. `"cosine"`: on the pivot's own sphere at the cosine
            similarity `step`, as in the authors' code, so the norm is kept. `"distance"`: at the
            distance `step * sqrt(d)` from the pivot in a uniformly random direction, as in their
            text; `sqrt(d)` is the norm of a typical noise of `d` numbers.
        step: the cosine, in (0, 1), larger is nearer; or the distance, above 0, larger is farther.
        elitist: whether the pivot is scored first and stays until a neighbour beats it. Otherwise
            the best neighbour replaces it even when it is worse, as in the paper.

    Raises:
        ValueError: if a setting is out of its range.
    """
    check_count("neighbours", neighbours)
    check_count("iterations", iterations)
    if geometry not in ("cosine", "distance"):
        raise ValueError(f"unknown geometry {geometry!r}: take 'cosine' or 'distance'")
    farthest = 1.0 if geometry == "cosine" else math.inf
    check_range(f"step ({geometry})", step, 0.0, farthest, open_low=True, open_high=True)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        rows = fresh_trajectory(space, fold_in(key, 0))
        pivot = take(rows, 0)
        steps = take(rows, slice(1, None))
        unknown = jnp.full((space.num_guides,), -jnp.inf)
        return State(steps, pivot, realise(pivot, space.shape), unknown)

    def neighbour(state: State, round: Array, key: Array) -> tuple[Noise, Array]:
        direction = draw(key, state.value.shape)
        keep, coef = _move(geometry, step, state.value, direction)
        scaled = Noise(state.pivot.keys, state.pivot.coefs * keep)
        return add_term(scaled, round + 1, key, coef), keep * state.value + coef * direction

    def propose(space: NoiseSpace, state: State, noise: Noise, value: Array) -> Proposal:
        return Proposal(space.root(noise, value), repeat(state.steps, value.shape[0]))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        def ask_pivot(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            return propose(space, state, *repeat((state.pivot, state.value), 1))

        def tell_pivot(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            return state._replace(scores=evaluation.scores[0])

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            keys = fold_in(key, jnp.arange(neighbours))
            moved = jax.vmap(lambda k: neighbour(state, round, k))(keys)
            return propose(space, state, *moved)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key
            score = evaluation.score
            if elitist:  # the pivot is compared anew, among its neighbours
                score = space.compare(jnp.concatenate([evaluation.scores, state.scores[None]]))
            best = jnp.argmax(score[:neighbours])
            # The winner's own term names the key of its move: made again, it is not stored K times.
            move_key = proposal.parent.noise.keys[best, 0, round + 1]
            winner = (*neighbour(state, round, move_key), evaluation.scores[best])
            stays = elitist & (score[best] <= score[-1])
            kept = select(stays, (state.pivot, state.value, state.scores), winner)
            return State(state.steps, *kept)

        climb = Stage(iterations, ask_fn, tell_fn)
        return (Stage(1, ask_pivot, tell_pivot), climb) if elitist else (climb,)

    return Searcher("zero_order", init_fn, stages_fn, rank=iterations + 1)


def _move(geometry: str, step: float, pivot: Array, direction: Array) -> tuple[Array, Array]:
    """The neighbour `keep * pivot + coef * direction` of a pivot along a Gaussian, both [*E].

    On the sphere, `y = |n| (step*u + sqrt(1 - step^2)*w)` with `u = n/|n|` and `w` the unit vector
    along the part of the direction that is orthogonal to `n`; both parts are linear in `n` and the
    direction, so the recipe stays a sum of Gaussians.
    """
    if geometry == "distance":
        radius = step * math.sqrt(pivot.size)
        return jnp.float32(1.0), radius / jnp.linalg.norm(direction.ravel())
    squared = jnp.vdot(pivot, pivot)
    along = jnp.vdot(pivot, direction) / squared
    across = jnp.linalg.norm((direction - along * pivot).ravel())
    coef = jnp.sqrt(squared * (1.0 - step) * (1.0 + step)) / across
    return step - coef * along, coef
