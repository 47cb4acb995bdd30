"""Sequential Monte Carlo: particles weighted by potentials and resampled, for a tilted law."""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import first_candidates, fresh_branches, select, take
from jaxsearch.core.resampling import RESAMPLING, effective_sample_size, normalised
from jaxsearch.core.reuse import reused
from jaxsearch.core.segments import Segment, Window, check_segments, runs, segments
from jaxsearch.core.types import (
    Array,
    Evaluation,
    NoiseSpace,
    Particle,
    Proposal,
    Searcher,
    Stage,
)

Potential = Literal["difference", "max", "sum"]
Resampling = Literal["systematic", "stratified", "residual", "multinomial"]
Tempering = Literal["none", "linear"]

_LARGEST = 1e30  # of a log potential: sums over rounds stay finite in float32


class State(NamedTuple):
    """The weighted particles of one prompt.

    At the end of the search a draw from the tilted law is particle `categorical(log_weights)`.
    """

    keys: Array  # [K] of the candidates whose noises the places draw from
    particles: Particle  # [K, ...]
    log_weights: Array  # [K] normalised
    log_evidence: Array  # [] estimate of log E[product of the potentials so far]
    spent: Array  # [K] logarithm of the product of a particle's potentials so far
    record: Array  # [K] largest score, or sum of the scores, along a particle's path


@reused
def smc(
    *,
    particles: int = 16,
    strength: float = 10.0,
    potential: Potential = "difference",
    resampling: Resampling = "systematic",
    every: int = 1,
    window: Window = None,
    threshold: float = 0.5,
    tempering: Tempering = "none",
) -> Searcher:
    """Draws from the sampler's law tilted by exp(strength * score), by weights and resampling.

    Feynman-Kac steering (Singhal et al. 2025, *A general framework for inference-time scaling and
    steering of diffusion models*, algorithm 1). K particles move on together; where they stop, the
    j-th time, each is weighted by a potential `G_j` of the scores `r_1 .. r_j` along its path:

    - `"difference"`: `exp(s_j r_j - s_{j-1} r_{j-1})`, with `s_0 r_0 = 0`;
    - `"max"`: `exp(s_j max_{i<=j} r_i)`;
    - `"sum"`: `exp(s_j sum_{i<=j} r_i)`;

    with `s_j = strength`, or under linear tempering its share of the solver steps taken. The last
    potential is `exp(strength * r(x_0))` divided by the product of all before, which for
    `"difference"` is its own form. So the product is `exp(strength * r(x_0))` for each of them,
    whatever the estimates on the way were worth, and the weighted particles stand for
    `p(x_0) exp(strength * r(x_0)) / Z`. `exp(log_evidence)` is an unbiased estimate of `Z`. This
    holds for an objective that scores each image by itself. The returned sample is the best of the
    K; all of them and their weights are in the searcher's state.

    Before a searched segment the particles are resampled if the effective sample size has fallen
    below the threshold; otherwise they keep their weights. A particle whose estimate has no score
    gets weight 0; where no particle would be left, the round is skipped. One particle is plain
    sampling.

    Args:
        particles: K, at least 1.
        strength: lambda, how strongly the law is tilted, in units of one over the score, 0 or more.
        potential: by which of the scores along its path a particle is weighted.
        resampling: the scheme; see `core/resampling.py`. `"systematic"` varies least.
        every: solver steps between two weightings, at least 1.
        window: lowest and highest noise level (`sigma/alpha`) at which to resample; null: all.
            The steps between are passed by all particles.
        threshold: effective sample size, as a fraction of K in [0, 1], below which to resample;
            1 resamples always, 0 never.
        tempering: `"none"`, or `"linear"` in the steps taken: weaker potentials early, where
            estimates are poor.

    Raises:
        ValueError: if a setting is out of its range or unknown; on a solver that injects no noise,
            or none inside the window.
    """
    check_count("particles", particles)
    check_range("strength", strength, 0.0, open_high=True)
    check_range("threshold", threshold, 0.0, 1.0)
    check_segments(every, window)
    for setting, value, known in (
        ("potential", potential, Potential),
        ("resampling", resampling, Resampling),
        ("tempering", tempering, Tempering),
    ):
        if value not in get_args(known):
            names = " or ".join(repr(name) for name in get_args(known))
            raise ValueError(f"unknown {setting} {value!r}: take {names}")

    def init_fn(space: NoiseSpace, key: Array) -> State:
        return State(
            *first_candidates(space, key, particles),
            log_weights=jnp.full((particles,), -math.log(particles), jnp.float32),
            log_evidence=jnp.float32(0.0),
            spent=jnp.zeros((particles,), jnp.float32),
            record=jnp.full((particles,), -jnp.inf if potential == "max" else 0.0, jnp.float32),
        )

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        divided = segments(space, every=every, window=window, what="smc")
        searched_next = {
            one.end: following.searched for one, following in itertools.pairwise(divided)
        }
        return tuple(stage(space, run, searched_next) for run in runs(divided))

    def product(state: State, score: Array, power: Array) -> tuple[Array, Array]:
        """Logarithm [K] of each particle's potentials, the next one included, and its record."""
        if potential == "difference":
            return power * score, state.record
        if potential == "max":
            record = jnp.maximum(state.record, score)
        else:
            record = jnp.clip(state.record + score, -_LARGEST, _LARGEST)
        return state.spent + power * record, record

    def weighed(state: State, score: Array, share: Array) -> State:
        """The state with the next potential in its weights; `share` [] of the steps are taken."""
        last = share == 1
        power = strength * (share if tempering == "linear" else jnp.ones_like(share))
        spent, record = product(state, score, power)
        spent = jnp.clip(jnp.where(last, strength * score, spent), -_LARGEST, _LARGEST)
        scored = score > -jnp.inf
        potentials = jnp.where(scored, spent - state.spent, -jnp.inf)
        log_weights, factor = normalised(state.log_weights + potentials)
        kept = (state.log_weights, state.log_evidence)
        said_something = last | (factor > -jnp.inf)
        return State(
            state.keys,
            state.particles,
            *select(said_something, (log_weights, state.log_evidence + factor), kept),
            *select(scored & said_something, (spent, record), (state.spent, state.record)),
        )

    def resampled(key: Array, state: State, wanted: Array) -> State:
        """The state of as many particles of equal weight, or the same one."""
        ancestors = RESAMPLING[resampling](key, state.log_weights)
        ancestors = jnp.where(wanted, ancestors, jnp.arange(particles))
        chosen, *scores = take((state.particles, state.spent, state.record), ancestors)
        log_weights = jnp.where(wanted, -math.log(particles), state.log_weights)
        return State(state.keys, chosen, log_weights, state.log_evidence, *scores)

    def stage(space: NoiseSpace, run: tuple[Segment, ...], searched_next: dict[int, bool]) -> Stage:
        begins = jnp.asarray([segment.begin for segment in run])
        shares = jnp.asarray([segment.end / space.num_steps for segment in run], jnp.float32)
        may_resample = [searched_next.get(segment.end, False) for segment in run]

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key  # noises hang on the candidates' keys
            noise = fresh_branches(space, state.keys, begins[round], run[0].num_steps)
            return Proposal(state.particles, noise)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del proposal
            state = weighed(state, evaluation.score, shares[round])
            state = state._replace(particles=evaluation.child)
            if not any(may_resample):
                return state
            low = effective_sample_size(state.log_weights) < threshold * particles
            wanted = (low | (threshold >= 1)) & jnp.asarray(may_resample)[round]
            return resampled(key, state, wanted)

        return Stage(len(run), ask_fn, tell_fn, finishes=run[-1].end == space.num_steps)

    return Searcher(
        "smc",
        init_fn,
        stages_fn,
        absolute_scores="weighs particles by the scores of all rounds together",
    )
