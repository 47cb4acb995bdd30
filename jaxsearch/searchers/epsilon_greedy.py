"""Epsilon-greedy noise trajectory search: at every solver step, seek the best injected noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import (
    add_term,
    draw,
    fresh,
    fresh_branches,
    fresh_trajectory,
    length,
    noise_key,
    repeat,
    require_noise,
    require_sight,
    select,
    take,
    without_lineage,
)
from jaxsearch.core.random import fold_in, uniform
from jaxsearch.core.reuse import reused
from jaxsearch.core.segments import Segment, Window, check_segments, runs, segments
from jaxsearch.core.types import (
    Array,
    Evaluation,
    Noise,
    NoiseSpace,
    Particle,
    Proposal,
    Searcher,
    Stage,
)


class State(NamedTuple):
    """One prompt's partial sample and the search for its next noise."""

    keys: Array  # [N + 1] of the candidates; the last draws the pivots that steps begin with
    parent: Particle  # [...] before the current step; its lineage holds the current pivot too
    value: Array  # [*E] the pivot, drawn; [every, *E] where it spans several steps
    child: Particle  # [...] where the pivot leads, without lineage
    scores: Array  # [V] of the child by guide


@reused
def epsilon_greedy(
    *,
    candidates: int = 4,
    iterations: int | Sequence[int] = 20,
    radius: float = 0.15,
    epsilon: float = 0.4,
    elitist: bool = False,
    search_inactive: bool = False,
    every: int = 1,
    window: Window = None,
) -> Searcher:
    """Searches the noise of one solver step after another, mixing global draws and local moves.

    At each step a pivot is drawn; in each iteration every candidate is, by its own coin, a fresh
    Gaussian (probability `epsilon`) or the pivot moved by `s * radius * sqrt(d)` in a uniformly
    random direction, `s ~ U(0, 1)`; the best candidate becomes the pivot. After the last iteration
    the step is taken with the pivot, whose result is known already and costs nothing more.

    Ramesh & Mardani 2025, algorithm 1, with the arithmetic of their code (their text has the radius
    `sqrt(2)` times larger). `epsilon = 0` is their zero-order search, `epsilon = 1` random draws
    per step. Steps at which the solver injects no noise are passed by one particle.

    Args:
        candidates: N, candidates per iteration, at least 1.
        iterations: K, iterations per step, at least 1; or one number for each solver step, where 0
            takes the step plainly with one particle.
        radius: lambda, the longest local move in units of `sqrt(d)`, above 0.
        epsilon: probability of a fresh draw, in [0, 1].
        elitist: whether the pivot stays unless a candidate beats it. Otherwise the best candidate
            replaces it even when it is worse, as in the paper.
        search_inactive: whether steps without injected noise are searched too, where all candidates
            tie: the published code's behaviour and cost.
        every: S, solver steps searched at once, at least 1. A candidate is then the noise of S
            steps together: one coin and one direction in `S*d` numbers, moved by up to
            `radius * sqrt(S*d)`. Iterations are those of the first of the steps.
        window: lowest and highest noise level (`sigma/alpha`) at which to search; null: all. Other
            steps are passed by one particle.

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise, or none
            inside the window; if all candidates of a step would score the same (`require_sight`).
    """
    per_step = tuple(iterations) if isinstance(iterations, Sequence) else None
    for number in per_step or ():
        check_count("iterations of a step", number, 0)
    most = max(iterations, default=0) if isinstance(iterations, Sequence) else iterations
    check_count("candidates", candidates)
    check_count("iterations", most)
    check_range("radius", radius, 0.0, open_low=True)
    check_range("epsilon", epsilon, 0.0, 1.0)
    check_segments(every, window)

    def schedule(space: NoiseSpace) -> tuple[int, ...]:
        """[T] iterations of each step."""
        if per_step is not None and len(per_step) != space.num_steps:
            raise ValueError(
                f"iterations has {len(per_step)} numbers, but the solver takes {space.num_steps} "
                "steps: give one number per step"
            )
        if not search_inactive:
            require_noise(space, "epsilon_greedy")
        wanted = per_step or (most,) * space.num_steps
        plan = tuple(
            k if active or search_inactive else 0
            for k, active in zip(wanted, space.active, strict=True)
        )
        if not any(plan):
            raise ValueError(
                f"iterations {iterations} searches no step that takes noise: give some to one of "
                f"the steps {[step for step, active in enumerate(space.active) if active]}"
            )
        return plan

    def init_fn(space: NoiseSpace, key: Array) -> State:
        keys = fold_in(key, jnp.arange(candidates + 1))
        root = space.root(take(fresh_trajectory(space, keys[0]), 0))
        value = root.x if every == 1 else repeat(root.x, every)
        unknown = jnp.full((space.num_guides,), -jnp.inf)
        return State(keys, root, value, without_lineage(root), unknown)

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        plan = schedule(space)
        if not search_inactive:
            require_sight(space, "epsilon_greedy", every)
        begins = [k > 0 for k in plan]
        divided = segments(space, every=every, window=window, what="epsilon_greedy", begins=begins)
        return tuple(
            searched_stage(space, plan, run) if run[0].searched else passed_stage(space, run[0])
            for run in runs(divided)
        )

    def searched_stage(space: NoiseSpace, plan: tuple[int, ...], run: tuple[Segment, ...]) -> Stage:
        num_steps = run[0].num_steps
        size = num_steps * math.prod(space.shape)
        # The first step a round searches, which of its iterations it is, and whether the last.
        begins = np.asarray([segment.begin for segment in run])
        each = np.asarray([plan[begin] for begin in begins])
        of_round = np.repeat(begins, each)
        number = np.arange(len(of_round)) - np.repeat(np.cumsum(each) - each, each)
        last = number == np.repeat(each, each) - 1
        steps, counts, lasts = jnp.asarray(of_round), jnp.asarray(number), jnp.asarray(last)

        def rows_of(round: Array) -> Array:
            """[S] the rows of the lineage that a round searches."""
            return steps[round] + 1 + jnp.arange(num_steps)

        def joint(value: Array) -> Array:
            """The pivot as [S, *E]; at the end of the schedule S may be less than `every`."""
            return value.reshape((every, *space.shape))[:num_steps]

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            rows, count = rows_of(round), counts[round]
            keys = jax.vmap(lambda k: jax.vmap(lambda row: noise_key(space, k, row, count))(rows))(
                state.keys
            )
            gaussians = draw(keys[:-1], space.shape)
            # The pivot that a segment begins with is drawn, and never tried itself.
            pivot, value = jax.lax.cond(
                count == 0,
                lambda: (fresh(keys[-1], space.rank), draw(keys[-1], space.shape)),
                lambda: (take(state.parent.noise, rows), joint(state.value)),
            )

            def candidate(noise_keys: Array, gaussian: Array, coins: Array) -> tuple[Noise, Array]:
                coef = coins[0] * radius * math.sqrt(size) / length(gaussian)
                moved = jax.vmap(add_term, in_axes=(0, None, 0, None))(
                    pivot, count + 1, noise_keys, coef
                )
                return select(
                    coins[1] < epsilon,
                    (fresh(noise_keys, space.rank), gaussian),
                    (moved, value + coef * gaussian),
                )

            coins = uniform(key, 2 * candidates).reshape(candidates, 2)
            noise, values = jax.vmap(candidate)(keys[:-1], gaussians, coins)
            return Proposal(repeat(state.parent, candidates), noise, values)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key
            rows = rows_of(round)
            score = evaluation.score
            if elitist:  # the pivot is compared anew, among the candidates
                score = space.compare(jnp.concatenate([evaluation.scores, state.scores[None]]))
            best = jnp.argmax(score[:candidates])
            winner = (
                take(proposal.noise, best),
                jnp.asarray(proposal.value)[best],
                take(without_lineage(evaluation.child), best),
                evaluation.scores[best],
            )
            pivot = (take(state.parent.noise, rows), joint(state.value))
            kept = (*pivot, state.child, state.scores)
            stays = elitist & (score[best] <= score[-1]) & (counts[round] > 0)
            pivot, value, child, scores = select(stays, kept, winner)
            # The pivot is written into the lineage every round; the last one of a step stays there.
            lineage = jax.tree.map(
                lambda old, new: old.at[rows].set(new), state.parent.noise, pivot
            )
            parent = select(lasts[round], child, without_lineage(state.parent))
            parent = parent._replace(noise=lineage)
            padded = jnp.concatenate(
                [value, state.value.reshape((every, *space.shape))[num_steps:]]
            )
            return State(state.keys, parent, padded.reshape(state.value.shape), child, scores)

        return Stage(len(of_round), ask_fn, tell_fn, finishes=run[-1].end == space.num_steps)

    def passed_stage(space: NoiseSpace, segment: Segment) -> Stage:
        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            noise = fresh_branches(space, state.keys[:1], segment.begin, segment.num_steps)
            return Proposal(repeat(state.parent, 1), noise)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            return state._replace(parent=take(evaluation.child, 0))

        return Stage(1, ask_fn, tell_fn, finishes=segment.end == space.num_steps)

    return Searcher("epsilon_greedy", init_fn, stages_fn, rank=most + 1)
