"""Evolutionary search: a population of noises, first at the start and then along the trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import (
    add_term,
    fresh_trajectory,
    noise_key,
    require_noise,
    rotate,
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
    Particle,
    Proposal,
    Searcher,
    Stage,
)


class State(NamedTuple):
    """The survivors of one prompt."""

    key: Array  # [] of the candidates
    parents: Particle  # [B] at the step that evolves; the lineage is that of the finished sample
    scores: Array  # [B, V] of the finished sample by guide, -inf while they are not known


@reused
def evolution(
    *,
    population: int | Sequence[int] = 8,
    survivors: int = 2,
    generations: int = 7,
    schedule: Sequence[int] = (0,),
    selection: Literal["truncation", "tournament"] = "tournament",
    tournament_size: int = 3,
    mutation: float = 0.5,
    partial: Literal["turn", "add"] = "turn",
) -> Searcher:
    """Evolves the initial noise, then the noise injected after chosen steps, on finished samples.

    A first population is drawn plainly. At each step of `schedule`, in each of its generations,
    the survivors' noises are mutated, `z' = sqrt(1 - mutation^2)*z + mutation*xi`, the children
    sampled to the end and scored, and the next survivors selected among survivors and children
    alike: the best one always stays. Step 0 mutates the initial noise and holds what is injected
    later; step `t > 0` starts from the survivors' partial samples after `t` solver steps and
    mutates these (`partial`). An empty schedule is best-of-N.

    The scheme of EvoSearch (He et al. 2025, *Scaling Image and Video Generation via Test-Time
    Evolutionary Search*): schedules of steps and of population sizes, selection on finished
    samples, elites, the variance-preserving mutation of the initial noise; its mutation of a
    partial sample is `partial="add"`, its generations are 1. It differs in what is at hand for
    selection: partial samples are not stored for a whole population, but between two steps of the
    schedule the survivors alone are sampled again, at the price of `survivors` times the steps
    between and one more scoring of each, which is not used.

    Args:
        population: K, children per generation, at least 1; or one number for the first population
            and one for each step of the schedule.
        survivors: B, parents per generation, from 1 to the smallest population; child `k` has
            parent `k mod B`.
        generations: generations at each step of the schedule, at least 1.
        schedule: the solver steps at which to evolve, growing, each above 0 beside a step whose
            noise can be mutated; 0 is the initial noise.
        selection: how survivors beside the best are chosen. `"truncation"`: the best ones.
            `"tournament"`: each is the best of a few drawn at random with replacement, which
            leaves worse ones a chance and so keeps the population diverse.
        tournament_size: how many are drawn, at least 1: 1 takes anyone.
        mutation: the size of a mutation, in [0, 1]: 0 copies the parent, 1 draws anew.
        partial: how partial samples are mutated. `"turn"`: all noise that is injected from there on
            is mutated like the initial noise, so that a child is one of the sampler's own.
            `"add"`: a standard Gaussian is added to the noise that the step before injected, and
            what is injected from there on is drawn anew, whatever `mutation` is. With
            `first_order`, whose noise comes last in a step, this is `x' = x + sigma*eps` at the
            step's own noise scale, as in the paper; that step is taken again for every child.

    Raises:
        ValueError: if a setting is out of its range; if no noise is injected where a step of the
            schedule would mutate it.
    """
    steps = tuple(schedule)
    if isinstance(population, Sequence):
        sizes = tuple(population)
    else:
        sizes = (population,) * (len(steps) + 1)
    if len(sizes) != len(steps) + 1:
        raise ValueError(
            f"population has {len(sizes)} numbers for a schedule of {len(steps)} steps: give one "
            "for the first population and one for each step"
        )
    for size in sizes:
        check_count("population", size)
    check_count("generations", generations)
    check_count("survivors", survivors)
    if not 1 <= survivors <= min(sizes):
        raise ValueError(f"survivors is {survivors}: it must lie in [1, {min(sizes)}]")
    if partial not in ("turn", "add"):
        raise ValueError(f"unknown partial {partial!r}: take 'turn' or 'add'")
    if selection not in ("truncation", "tournament"):
        raise ValueError(f"unknown selection {selection!r}: take 'truncation' or 'tournament'")
    check_count("tournament_size", tournament_size)
    check_range("mutation", mutation, 0.0, 1.0)
    if list(steps) != sorted(set(steps)) or min(steps, default=0) < 0:
        raise ValueError(f"schedule is {steps}: give solver steps from 0 that grow")
    later = tuple(step for step in steps if step > 0)
    # The initial noise is mutated at step 0 only, what is injected at each of the later ones.
    most = generations * max(len(later), 0 in steps)

    def check_schedule(space: NoiseSpace) -> None:
        if later:
            require_noise(space, "evolution at a step above 0")
        last = max((step for step, active in enumerate(space.active) if active), default=0)
        if partial == "turn" and max(steps, default=0) > last:
            raise ValueError(
                f"schedule is {steps}, but this solver injects no noise after step {last}: give "
                "none above it"
            )
        after = [step + 1 for step, active in enumerate(space.active[:-1]) if active]
        if partial == "add" and not set(later) <= set(after):
            raise ValueError(
                f"schedule is {steps}, but with this solver noise can be added to partial samples "
                f"at steps {after} only"
            )

    def trajectories(space: NoiseSpace, key: Array, num: int) -> Noise:
        keys = fold_in(key, jnp.arange(num))
        return jax.vmap(lambda candidate: fresh_trajectory(space, candidate))(keys)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        noise = trajectories(space, key, survivors)
        parents = space.root(take(noise, (slice(None), 0)))._replace(noise=noise)
        return State(key, parents, jnp.full((survivors, space.num_guides), -jnp.inf))

    def selected(key: Array, score: Array, first: Array) -> Array:
        """Which [B] of a pool survive, by their scores [pool]; tournaments draw from `first` on."""
        best = jax.lax.top_k(score, survivors)[1]
        if selection == "truncation":
            return best
        drawn = jax.random.randint(key, (survivors - 1, tournament_size), first, len(score))
        winner = jnp.argmax(score[drawn], axis=1)
        return jnp.append(best[:1], drawn[jnp.arange(survivors - 1), winner])

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        check_schedule(space)
        start = generations * (0 in steps)
        if 0 in steps and sizes[0] != sizes[1]:
            stages = [evolving_stage(space, 0, sizes[0], 1, 0)]
            stages.append(evolving_stage(space, 0, sizes[1], start, 1, plain_rounds=0))
        else:
            stages = [evolving_stage(space, 0, sizes[0], 1 + start, 0)]
        stands = 0
        for done, step in enumerate(later):
            size = sizes[len(sizes) - len(later) + done]
            begin = step - (partial == "add")
            if begin > stands:
                stages.append(passing_stage(stands, begin))
            stands = begin
            slot = 1 + generations * done
            stages.append(evolving_stage(space, step, size, generations, slot, plain_rounds=0))
        return tuple(stages)

    def evolving_stage(
        space: NoiseSpace, step: int, population: int, rounds: int, slot: int, plain_rounds: int = 1
    ) -> Stage:
        """Generations at a step, whose first fills `slot` of a recipe; at 0 after a plain one."""
        rows = jnp.arange(space.num_steps + 1)
        adds = partial == "add" and step > 0
        begin = step - adds  # where parents stand
        # Rows up to the step are the parents' past: whatever becomes of them, none is proposed.
        moves = jnp.asarray([step == 0, *(step > 0 and active for active in space.active)])
        amounts = jnp.where(moves, mutation, 0.0)

        def mutated(noise: Noise, slot: Array, key: Array) -> Noise:
            keys = jax.vmap(lambda row: noise_key(space, key, row))(rows)
            if not adds:
                return jax.vmap(rotate, in_axes=(0, None, 0, 0))(noise, slot, keys, amounts)
            added = jax.vmap(add_term, in_axes=(0, None, 0, None))(noise, slot, keys, 1.0)
            later = select(rows > step, fresh_trajectory(space, key), noise)
            return select(rows == step, added, later)

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            keys = fold_in(key, jnp.arange(population))
            parents = take(state.parents, jnp.arange(population) % survivors)
            noise = jax.vmap(mutated, in_axes=(0, None, 0))(parents.noise, slot + round, keys)
            if step == 0:
                plain = trajectories(space, state.key, population)
                noise = select(round < plain_rounds, plain, noise)
                parents = space.root(take(noise, (slice(None), 0)))
            return Proposal(parents, take(noise, (slice(None), slice(begin + 1, None))))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            # Where the children set out from, with the lineage of where they ended.
            children = proposal.parent._replace(noise=evaluation.child.noise)
            pool = jax.tree.map(
                lambda old, new: jnp.concatenate([old, new]),
                (state.parents, state.scores),
                (children, evaluation.scores),
            )
            # Before the plain generation there are no survivors to draw.
            first = jnp.where(round < plain_rounds, survivors, 0)
            return State(state.key, *take(pool, selected(key, space.compare(pool[1]), first)))

        return Stage(rounds, ask_fn, tell_fn)

    def passing_stage(begin: int, end: int) -> Stage:
        """Takes the survivors from one step of the schedule to the next."""

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            noise = take(state.parents.noise, (slice(None), slice(begin + 1, end + 1)))
            return Proposal(state.parents, noise)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            return state._replace(parents=evaluation.child)

        return Stage(1, ask_fn, tell_fn, finishes=False)

    return Searcher("evolution", init_fn, stages_fn, rank=most + 1)
