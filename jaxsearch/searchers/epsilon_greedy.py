"""Epsilon-greedy noise trajectory search: at every solver step, the best injected noise is sought."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.noise import (
    add_term,
    draw,
    fresh,
    fresh_trajectory,
    repeat,
    require_noise,
    select,
    take,
    trajectory_key,
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

    key: Array  # [] the prompt's init key
    parent: Particle  # [...] all steps before the current one are decided
    pivot: Noise  # [M]
    value: Array  # [*E] the pivot, drawn
    child: Particle  # [...] where the pivot leads
    score: Array  # [] of the child
    iteration: Array  # [] int32, of the current step


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
    Gaussian (probability `epsilon`) or the pivot moved by `s * radius * sqrt(d)` in a uniformly random
    direction, `s ~ U(0, 1)`; the best candidate becomes the pivot. After the last iteration the step
    is taken with the pivot, whose result is known already and costs nothing more.

    Ramesh & Mardani 2025, algorithm 1, with the arithmetic of their code (their text has the radius
    `sqrt(2)` times larger). `epsilon = 0` is their zero-order search, `epsilon = 1` random draws per
    step. Steps at which the solver injects no noise are passed by one particle.

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
    per_step = None if isinstance(iterations, int) else tuple(iterations)
    most = iterations if isinstance(iterations, int) else max(iterations, default=0)
    if candidates < 1 or most < 1 or (per_step and min(per_step) < 0):
        raise ValueError(
            f"candidates is {candidates} and iterations {iterations}: epsilon_greedy needs at least 1 "
            "of each (0 iterations only for some of the steps)"
        )
    check_range("radius", radius, 0.0, open_low=True)
    check_range("epsilon", epsilon, 0.0, 1.0)

    def schedule(space: NoiseSpace) -> tuple[int, ...]:
        """[T] iterations of each step."""
        if per_step is not None and len(per_step) != space.num_steps:
            raise ValueError(
                f"iterations has {len(per_step)} numbers, but the solver takes {space.num_steps} steps"
            )
        if not search_inactive:
            require_noise(space, "epsilon_greedy")
        wanted = per_step or (most,) * space.num_steps
        return tuple(
            k if active or search_inactive else 0
            for k, active in zip(wanted, space.active, strict=True)
        )

    def init_fn(space: NoiseSpace, key: Array) -> State:
        noise = take(fresh_trajectory(key, 0, space.num_steps, space.rank), 0)
        root = space.root(noise)
        return State(key, root, noise, root.x, root, jnp.float32(-jnp.inf), jnp.int32(0))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        plan = schedule(space)
        runs = [(bool(k), len(list(run))) for k, run in itertools.groupby(plan, key=bool)]
        ends = list(itertools.accumulate(length for _, length in runs))
        return tuple(
            _searched(space, plan, sum(plan[end - length : end]))
            if searched
            else _passed(space, end - length, end)
            for (searched, length), end in zip(runs, ends, strict=True)
        )

    def _searched(space: NoiseSpace, plan: tuple[int, ...], rounds: int) -> Stage:
        size = math.prod(space.shape)
        lasts = jnp.asarray(np.asarray(plan) - 1, jnp.int32)

        def fresh_key(state: State, candidate: Array | int) -> Array:
            row = state.parent.step + 1
            return trajectory_key(state.key, candidate, row, state.iteration)

        def pivot_of(state: State) -> tuple[Noise, Array]:
            # Number N is no candidate's: the pivot a step begins with is never tried itself.
            key = fresh_key(state, candidates)
            begins = state.iteration == 0
            drawn = (fresh(key, space.rank), draw(key, space.shape))
            return select(begins, drawn, (state.pivot, state.value))

        def ask_fn(key: Array, state: State) -> Proposal:
            pivot, value = pivot_of(state)

            def candidate(index: Array) -> tuple[Noise, Array]:
                coin_key, length_key = jax.random.split(jax.random.fold_in(key, index))
                noise_key = fresh_key(state, index)
                gaussian = draw(noise_key, space.shape)
                length = jax.random.uniform(length_key) * radius * math.sqrt(size)
                coef = length / jnp.linalg.norm(gaussian.ravel())
                moved = add_term(pivot, state.iteration + 1, noise_key, coef)
                explores = jax.random.uniform(coin_key) < epsilon
                return select(
                    explores,
                    (fresh(noise_key, space.rank), gaussian),
                    (moved, value + coef * gaussian),
                )

            noise, values = jax.vmap(candidate)(jnp.arange(candidates))
            one_step = jax.tree.map(lambda leaf: leaf[:, None], (noise, values))
            return Proposal(repeat(state.parent, candidates), *one_step)

        def tell_fn(key: Array, state: State, proposal: Proposal, evaluation: Evaluation) -> State:
            del key
            best = jnp.argmax(evaluation.score)
            score = evaluation.score[best]
            winner = (
                take(proposal.noise, (best, 0)),
                proposal.value[best, 0],
                take(evaluation.child, best),
                score,
            )
            old = (state.pivot, state.value, state.child, state.score)
            stays = elitist & (score <= state.score) & (state.iteration > 0)
            pivot, value, child, score = select(stays, old, winner)
            last = state.iteration == lasts[state.parent.step]
            return State(
                state.key,
                select(last, child, state.parent),
                pivot,
                value,
                child,
                score,
                jnp.where(last, 0, state.iteration + 1),
            )

        return Stage(rounds, ask_fn, tell_fn)

    def _passed(space: NoiseSpace, begin: int, end: int) -> Stage:
        injects = jnp.asarray(space.active[begin:end], jnp.float32)

        def ask_fn(key: Array, state: State) -> Proposal:
            del key
            rows = fresh_trajectory(state.key, 0, space.num_steps, space.rank)
            rows = take(rows, slice(begin + 1, end + 1))
            # A coefficient of 0 saves drawing a noise that has no effect.
            rows = rows._replace(coefs=rows.coefs * injects[:, None])
            return Proposal(repeat(state.parent, 1), repeat(rows, 1))

        def tell_fn(key: Array, state: State, proposal: Proposal, evaluation: Evaluation) -> State:
            del key, proposal
            return state._replace(parent=take(evaluation.child, 0))

        return Stage(1, ask_fn, tell_fn)

    return Searcher("epsilon_greedy", init_fn, stages_fn, rank=most + 1)
