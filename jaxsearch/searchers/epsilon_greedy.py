"""Epsilon-greedy noise trajectory search: at every solver step, seek the best injected noise."""

from __future__ import annotations

import itertools
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
    fold_in_each,
    fresh,
    fresh_trajectory,
    noise_key,
    repeat,
    require_noise,
    select,
    take,
    without_lineage,
)
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
    value: Array  # [*E] the pivot, drawn
    child: Particle  # [...] where the pivot leads, without lineage
    score: Array  # [] of the child


def epsilon_greedy(
    *,
    candidates: int = 4,
    iterations: int | Sequence[int] = 20,
    radius: float = 0.15,
    epsilon: float = 0.4,
    elitist: bool = False,
    search_inactive: bool = False,
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

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise.
    """
    per_step = tuple(iterations) if isinstance(iterations, Sequence) else None
    for number in per_step or ():
        check_count("iterations of a step", number, 0)
    most = max(iterations, default=0) if isinstance(iterations, Sequence) else iterations
    check_count("candidates", candidates)
    check_count("iterations", most)
    check_range("radius", radius, 0.0, open_low=True)
    check_range("epsilon", epsilon, 0.0, 1.0)

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
        keys = fold_in_each(key, jnp.arange(candidates + 1))
        root = space.root(take(fresh_trajectory(space, keys[0]), 0))
        return State(keys, root, root.x, without_lineage(root), jnp.float32(-jnp.inf))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        plan = schedule(space)
        runs = [(bool(k), len(list(run))) for k, run in itertools.groupby(plan, key=bool)]
        ends = list(itertools.accumulate(length for _, length in runs))
        return tuple(
            (searched_stage if searched else passed_stage)(space, plan, end - length, end)
            for (searched, length), end in zip(runs, ends, strict=True)
        )

    def searched_stage(space: NoiseSpace, plan: tuple[int, ...], begin: int, end: int) -> Stage:
        size = math.prod(space.shape)
        # Which step a round searches, which of its iterations it is, and whether it is the last.
        each = np.asarray(plan[begin:end])
        of_round = np.repeat(np.arange(begin, end), each)
        number = np.arange(len(of_round)) - np.repeat(np.cumsum(each) - each, each)
        last = number == np.asarray(plan)[of_round] - 1
        steps, counts, lasts = jnp.asarray(of_round), jnp.asarray(number), jnp.asarray(last)

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            row, count = steps[round] + 1, counts[round]
            keys = jax.vmap(lambda k: noise_key(space, k, row, count))(state.keys)
            gaussians = draw(keys[:-1], space.shape)
            # The pivot that a step begins with is drawn, and never tried itself.
            pivot, value = jax.lax.cond(
                count == 0,
                lambda: (fresh(keys[-1], space.rank), draw(keys[-1], space.shape)),
                lambda: (take(state.parent.noise, row), state.value),
            )

            def candidate(noise_key: Array, gaussian: Array, coins: Array) -> tuple[Noise, Array]:
                length = coins[0] * radius * math.sqrt(size)
                coef = length / jnp.linalg.norm(gaussian.ravel())
                moved = add_term(pivot, count + 1, noise_key, coef)
                return select(
                    coins[1] < epsilon,
                    (fresh(noise_key, space.rank), gaussian),
                    (moved, value + coef * gaussian),
                )

            coins = jax.random.uniform(key, (candidates, 2))
            noise, values = jax.vmap(candidate)(keys[:-1], gaussians, coins)
            one_step = jax.tree.map(lambda leaf: leaf[:, None], (noise, values))
            return Proposal(repeat(state.parent, candidates), *one_step)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key
            row = steps[round] + 1
            best = jnp.argmax(evaluation.score)
            score = evaluation.score[best]
            winner = (
                take(proposal.noise, (best, 0)),
                jnp.asarray(proposal.value)[best, 0],
                take(without_lineage(evaluation.child), best),
                score,
            )
            kept = (take(state.parent.noise, row), state.value, state.child, state.score)
            stays = elitist & (score <= state.score) & (counts[round] > 0)
            pivot, value, child, score = select(stays, kept, winner)
            # The pivot is written into the lineage every round; the last one of a step stays there.
            lineage = jax.tree.map(
                lambda rows, new: rows.at[row].set(new), state.parent.noise, pivot
            )
            parent = select(lasts[round], child, without_lineage(state.parent))
            parent = parent._replace(noise=lineage)
            return State(state.keys, parent, value, child, score)

        return Stage(len(of_round), ask_fn, tell_fn, finishes=end == space.num_steps)

    def passed_stage(space: NoiseSpace, plan: tuple[int, ...], begin: int, end: int) -> Stage:
        del plan

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            rows = take(fresh_trajectory(space, state.keys[0]), slice(begin + 1, end + 1))
            return Proposal(repeat(state.parent, 1), repeat(rows, 1))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            return state._replace(parent=take(evaluation.child, 0))

        return Stage(1, ask_fn, tell_fn, finishes=end == space.num_steps)

    return Searcher("epsilon_greedy", init_fn, stages_fn, rank=most + 1)
