"""Markov chains of noise whose law is the prior tilted by the reward."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.noise import (
    draw,
    fresh_trajectory,
    noise_key,
    realise,
    require_noise,
    rotate,
    select,
    take,
)
from jaxsearch.core.random import fold_in, uniform
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

_STEPS = (slice(None), slice(1, None))  # the rows of the injected noises of all chains


class State(NamedTuple):
    """Where the chains of one prompt are: replay `noise` to draw from the tilted law."""

    noise: Noise  # [C, T + 1, M]
    score: Array  # [C] -inf while it is not known
    accepted: Array  # [C] int32, moves accepted so far
    drawn: Array | None  # [C, T, *E] what is injected, where it moves too


@reused
def markov_chain(
    *,
    chains: int = 4,
    iterations: int = 20,
    step: float = 0.3,
    strength: float = 20.0,
    injected: bool = False,
) -> Searcher:
    """Walks through noise by Metropolis chains whose law is the prior tilted by the reward.

        z' = sqrt(1 - step^2)*z + step*xi,  accepted with probability min(1, exp(strength*(r' - r)))

    leaves `N(z; 0, I) * exp(strength * r(z))` invariant, `r` the score of the sample made from `z`:
    the proposal is reversible under the Gaussian, so only the reward is left in the ratio, whatever
    the dimension. Preconditioned Crank-Nicolson of Cotter et al. 2013, *MCMC methods for functions*
    (their `beta` is `step`, their potential `-strength * r`). Each chain starts at a plain sample,
    chain 0 at the plain sample of the prompt; once the start is forgotten, the state's noises are
    draws from the tilted law. The best sample that was ever proposed is returned.

    A failed score (-inf) is never accepted over one that did not fail; a chain that starts at one
    takes every move until it is out. The law is tilted by what a sample scores by itself, so an
    aggregate by ranks among candidates is refused.

    Args:
        chains: C, independent chains, at least 1.
        iterations: moves that each chain tries, at least 0, where the start points are all there
            is. A recipe grows by one Gaussian per accepted move, and memory is laid out for all.
        step: the size of a move, in (0, 1]: 1 draws anew.
        strength: how much the reward counts beside the prior, at least 0: the inverse of a
            temperature, in the units of the score.
        injected: whether the noises of all steps move together. Otherwise the initial noise alone
            does, given the chain's own later noises, where the solver injects any.

    Raises:
        ValueError: if a setting is out of its range; on a solver that injects no noise, if
            `injected` is set.
    """
    check_count("chains", chains)
    check_count("iterations", iterations, 0)
    check_range("step", step, 0.0, 1.0, open_low=True)
    check_range("strength", strength, 0.0, open_high=True)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        keys = fold_in(key, jnp.arange(chains))
        noise = jax.vmap(lambda chain: fresh_trajectory(space, chain))(keys)
        # A recipe has a term for each accepted move: where those of all steps grow, to draw them
        # anew at every step would cost more than the smallest networks do.
        drawn = realise(take(noise, _STEPS), space.shape) if injected else None
        accepted = jnp.zeros((chains,), jnp.int32)
        return State(noise, jnp.full((chains,), -jnp.inf), accepted, drawn)

    def propose(space: NoiseSpace, noise: Noise, drawn: Array | None) -> Proposal:
        return Proposal(space.root(take(noise, (slice(None), 0))), take(noise, _STEPS), drawn)

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        if injected:
            require_noise(space, "markov_chain with injected")
        rows = jnp.arange(space.num_steps + 1)
        moves = jnp.asarray([True, *(active and injected for active in space.active)])
        amounts = jnp.where(moves, step, 0.0)

        def moved(noise: Noise, slot: Array, keys: Array) -> Noise:
            return jax.vmap(rotate, in_axes=(0, None, 0, 0))(noise, slot, keys, amounts)

        def ask_start(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            return propose(space, state.noise, state.drawn)

        def tell_start(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal
            return state._replace(score=evaluation.score)

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del round
            chain = fold_in(key, jnp.arange(chains))
            keys = jax.vmap(lambda one: jax.vmap(lambda row: noise_key(space, one, row))(rows))(
                chain
            )
            # A refused move leaves no term, so the next one takes its slot.
            noise, drawn = jax.vmap(moved)(state.noise, state.accepted + 1, keys), state.drawn
            if drawn is not None:
                amount = amounts[1:].reshape((1, -1) + (1,) * len(space.shape))
                new = draw(keys[:, 1:], space.shape)
                drawn = jnp.sqrt(1.0 - amount**2) * drawn + amount * new
            return propose(space, noise, drawn)

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del round
            coins = jnp.log(uniform(key, chains))
            likelier = coins < strength * (evaluation.score - state.score)
            # What is no number (a strength of 0 times a failed score) compares as false: refused.
            accept = likelier | jnp.isneginf(state.score)
            accepted = state.accepted + 1
            there = State(evaluation.child.noise, evaluation.score, accepted, proposal.value)
            return select(accept, there, state)

        start = Stage(1, ask_start, tell_start)
        return (start, Stage(iterations, ask_fn, tell_fn)) if iterations else (start,)

    return Searcher(
        "markov_chain",
        init_fn,
        stages_fn,
        rank=iterations + 1,
        absolute_scores="accepts a move by how much higher it scores than one of an earlier round",
    )
