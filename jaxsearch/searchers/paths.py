"""Search over paths: partial samples go back to more noise, again and again, and the best go on."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import MOST, check_count, check_fixed, check_range
from jaxsearch.core.noise import (
    first_candidates,
    fresh,
    fresh_branches,
    noise_key,
    take,
)
from jaxsearch.core.random import fold_in
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


class State(NamedTuple):
    """The paths of one prompt."""

    keys: Array  # [N] of the candidates whose noises the paths begin with
    paths: Particle  # [N, ...] best first


class Leg(NamedTuple):
    """The solver steps between which one round moves its candidates."""

    begin: int  # where the paths stand
    back: int  # where they are renoised to
    end: int  # where their candidates are scored


@reused
def paths(
    *,
    paths: int = 2,
    candidates: int = 4,
    level: float = 0.11,
    forward: float = 0.78,
    backward: float = 0.84,
    unit: Literal["time", "sigma", "steps"] = "time",
) -> Searcher:
    """Adds noise to partial samples, denoises them again a little further, and keeps the best.

    Search over paths of Ma et al. 2025 (section 3.2, "Paths-N"). N initial noises are denoised to a
    noise level. In each round every path is renoised M times by the forward process, from there to
    `level + forward`; all N*M are denoised to `level + forward - backward`, where one clean
    estimate of each is scored (the problem's value; theirs is `lookahead`) and the best N go on
    from that level. The last round runs to the clean sample, and the best sample is returned. Among
    equal scores those of different paths go first. Any solver will do, one without noise too.

    A particle always stands at one of the solver's steps, so levels are rounded to the nearest. The
    authors' `backward` is 0.81, whose rounds begin at 0.11, 0.08, 0.05 and 0.02: a schedule must be
    that fine near its end. By default they begin at 0.11 and 0.05.

    Args:
        paths: N, partial samples kept, at least 1.
        candidates: M, renoisings of each in a round, at least 1.
        level: the noise level at which the first round begins, above 0.
        forward: delta_f, how much noise a round adds, above 0.
        backward: delta_b, how much it then removes, more than `forward`.
        unit: what levels are measured in. `"time"`: that of the straight path from noise at 1 to
            the sample at 0, `sigma/(alpha + sigma)`, as in the paper. `"sigma"`: the
            noise-to-signal ratio `sigma/alpha`. `"steps"`: solver steps that are left.

    Raises:
        ValueError: if a setting is out of its range or unknown; on a schedule that does not reach
            up to `level + forward`, or on which two rounds would begin at the same step.
    """
    check_count("paths", paths)
    check_count("candidates", candidates)
    for name, value in (("level", level), ("forward", forward), ("backward", backward)):
        check_fixed(name, value)
    check_range("level", level, 0.0, open_low=True)
    check_range("forward", forward, 0.0, open_low=True)
    check_range("backward", backward, forward, open_low=True)
    if unit not in ("time", "sigma", "steps"):
        raise ValueError(f"unknown unit {unit!r}: take 'time', 'sigma' or 'steps'")
    wanted = level / (backward - forward)
    check_range("level / (backward - forward), the number of rounds,", wanted, 0.0, MOST)
    rounds = max(math.ceil(wanted - 1e-9), 1)  # a level that is 0 but for rounding is 0

    def init_fn(space: NoiseSpace, key: Array) -> State:
        return State(*first_candidates(space, key, paths))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        legs = _legs(space, unit, level, forward, backward, rounds)
        longest = max(leg.end - leg.back for leg in legs)
        return first_stage(space, legs[0].begin), stage(space, legs, longest)

    def first_stage(space: NoiseSpace, num_steps: int) -> Stage:
        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key, round  # noises hang on the candidates' keys
            return Proposal(state.paths, fresh_branches(space, state.keys, 0, num_steps))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            return state._replace(paths=evaluation.child)

        return Stage(1, ask_fn, tell_fn, finishes=False)

    def stage(space: NoiseSpace, legs: tuple[Leg, ...], longest: int) -> Stage:
        backs = jnp.asarray([leg.back for leg in legs])
        lengths = jnp.asarray([leg.end - leg.back for leg in legs])
        even = all(leg.end - leg.back == longest for leg in legs)
        # Candidate m of path n is number m*N + n.
        num = candidates * paths
        parent = jnp.arange(num) % paths

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            # A candidate's noises are those of a trajectory of its own, whose first renoises it.
            keys = fold_in(key, jnp.arange(num))
            first = jax.vmap(lambda candidate: noise_key(space, candidate, 0))(keys)
            back = backs[round]
            renoised = space.renoise(take(state.paths, parent), back, fresh(first, space.rank))
            noise = fresh_branches(space, keys, back, longest)
            return Proposal(
                renoised, noise, steps=None if even else jnp.full((num,), lengths[round])
            )

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            _, best = jax.lax.top_k(evaluation.score, paths)  # the first of equals
            return state._replace(paths=take(evaluation.child, best))

        return Stage(len(legs), ask_fn, tell_fn)

    return Searcher("paths", init_fn, stages_fn, renoisings=rounds)


def _levels(space: NoiseSpace, unit: str) -> list[float]:
    """[T + 1] the noise level at each of the solver's steps and after the last."""
    if unit == "steps":
        return [float(left) for left in range(space.num_steps, -1, -1)]
    ratios = [*space.levels, 0.0]
    if unit == "sigma":
        return ratios
    return [1.0 if math.isinf(ratio) else ratio / (1.0 + ratio) for ratio in ratios]


def _legs(
    space: NoiseSpace, unit: str, level: float, forward: float, backward: float, rounds: int
) -> tuple[Leg, ...]:
    """The solver steps of each round, from settings that are noise levels.

    Raises:
        ValueError: if the schedule has no such steps.
    """
    levels = _levels(space, unit)
    listed = "levels are " + ", ".join(f"{one:.3g}" for one in levels)

    def nearest(wanted: float) -> int:
        return min(range(len(levels)), key=lambda step: abs(levels[step] - wanted))

    if level + forward > levels[0] * (1 + 1e-9):
        raise ValueError(
            f"paths: level + forward is {level + forward:.3g} ({unit}), more noise than the "
            f"schedule begins with: lower one of them; its {listed}"
        )
    if rounds >= len(levels):
        raise ValueError(
            f"paths: {rounds} rounds do not begin at {space.num_steps} different steps: take a "
            f"backward that is larger than forward by more; the schedule's {listed}"
        )
    wanted = [level - number * (backward - forward) for number in range(rounds)]
    begins = [nearest(one) for one in wanted]
    ends = [*begins[1:], space.num_steps]
    backs = [nearest(one + forward) for one in wanted]
    for leg, one, following in zip(
        zip(begins, backs, ends, strict=True), wanted, [*wanted[1:], 0.0], strict=True
    ):
        begin, back, end = leg
        if begin == end:
            raise ValueError(
                f"paths: the noise levels {one:.3g} and {following:.3g} ({unit}) fall on the same "
                "solver step: take a backward that is larger than forward by more, or a finer "
                f"schedule; its {listed}"
            )
        if back >= begin:
            raise ValueError(
                f"paths: adding {forward:.3g} ({unit}) to the noise level {one:.3g} leads to no "
                f"earlier solver step: take a larger forward; the schedule's {listed}"
            )
    return tuple(Leg(*leg) for leg in zip(begins, backs, ends, strict=True))
