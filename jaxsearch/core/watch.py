"""A search watched round by round: which candidates were tried, and what became of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.noise import prompt_keys
from jaxsearch.core.search import Turn, ask, begin, search_in_chunks, tell
from jaxsearch.core.space import stages_of, with_first
from jaxsearch.core.traced import Traced
from jaxsearch.core.types import (
    Array,
    Legs,
    Noise,
    Problem,
    Prompts,
    PyTree,
    Searcher,
    SearchState,
)


class Tried(NamedTuple):
    """The candidates of one round."""

    score: Array  # [P, K]
    begin: Array  # [P, K] int32, the solver step from which each went
    end: Array  # [P, K] int32, and to which; the same of one that rests
    way: Array  # [P, K, T + 1] uint32, `fingerprint` of the noises that made it


def fingerprint(
    noise: Noise, active: tuple[bool, ...], legs: Legs | None = None, *, exact: bool = False
) -> Array:
    """A number for each noise of recipes [..., T + 1, M], by the keys it is made of: [..., T + 1].

    Two samples share the way to a step if all of their numbers up to it are equal. Noises without
    an effect count as equal, and so do terms in another order. What was before a renoising counts
    as part of the initial noise.

    Args:
        noise: of samples.
        active: [T] whether the noise of a step has an effect.
        legs: of samples that were renoised.
        exact: whether coefficients and free parts count too, to the last bit. They hang on how a
            program rounds, keys do not.
    """
    rows = _mixed(noise, exact)
    if legs is not None:
        steps = (legs.end * 4099 + legs.back).astype(jnp.uint32)
        way = _weighted(_mixed(legs.noise, exact)) + steps
        gone = jnp.where(legs.back < legs.end, _stirred(way), jnp.uint32(0))
        rows = rows.at[..., 0].add(jnp.sum(gone, axis=-1))
    return jnp.where(jnp.asarray((True, *active)), rows, jnp.uint32(0))


def _mixed(noise: Noise, exact: bool) -> Array:
    """[..., T + 1] of noises [..., T + 1, M]."""
    data = jax.random.key_data(noise.keys)
    term = jnp.zeros(noise.coefs.shape, jnp.uint32)
    if exact:
        term = jax.lax.bitcast_convert_type(noise.coefs, jnp.uint32)
    for word in range(data.shape[-1]):
        term = _stirred(term + data[..., word] * jnp.uint32(0x9E3779B1) + jnp.uint32(1))
    mixed = jnp.sum(jnp.where(noise.coefs != 0, term, jnp.uint32(0)), axis=-1)
    if noise.free is None or not exact:
        return mixed
    free = noise.free.reshape((*mixed.shape, -1)) + jnp.float32(0)  # of -0 and 0 there is one
    bits = jax.lax.bitcast_convert_type(free, jnp.uint32)
    return mixed + _weighted(_stirred(bits))


def _stirred(bits: Array) -> Array:
    """A mix of 32 bits that loses none (the finaliser of MurmurHash3, in the public domain)."""
    bits = (bits ^ (bits >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> jnp.uint32(16))


def _weighted(bits: Array) -> Array:
    """The sum over the last axis, in which each place counts otherwise."""
    places = jnp.arange(bits.shape[-1], dtype=jnp.uint32)
    return jnp.sum(bits * jnp.broadcast_to(2 * places + 1, bits.shape), axis=-1)


@functools.partial(jax.jit, static_argnames=("searcher", "stage_index", "turn_index", "microbatch"))
def _round(
    key: Array,
    problem: Problem,
    prompts: Prompts,
    state: SearchState,
    *,
    searcher: Searcher,
    stage_index: int,
    turn_index: int,
    microbatch: int | None,
) -> tuple[SearchState, Tried]:
    stage, first = with_first(stages_of(searcher, problem))[stage_index]
    turn = Turn(stage.turns[turn_index], (state.round - first) // len(stage.turns))
    keys = prompt_keys(key, prompts)
    proposal = ask(keys, turn, state)
    evaluation, spent = evaluate(
        problem, proposal, prompts, gradient=turn.stage.gradient, microbatch=microbatch
    )
    child = evaluation.child
    tried = Tried(
        score=evaluation.score,
        begin=proposal.parent.step,
        end=child.step,
        way=fingerprint(child.noise, problem.solver.active, child.legs),
    )
    return tell(keys, problem, turn, state, proposal, evaluation, spent), tried


def watch(
    key: Array,
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    places: Sequence[int],
    *,
    traced: Traced | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[tuple[SearchState, list[Tried]]]:
    """The same search as `search`, with what it tried for some of its prompts, round by round.

    All prompts are searched by the programs that `search_in_chunks` takes, so the search is that
    one to the last bit: a search of fewer prompts is rounded otherwise, and where two candidates
    are as good as equal another one may win. What is tried in a round is computed beside it, anew
    from the state before.

    Args:
        key: a typed PRNG key.
        searcher: the policy.
        problem: denoiser, solver, objective and value.
        prompts: [P].
        places: of the prompts to look at.
        traced: the same searcher made by `traced`, if that is what has searched.
        microbatch: particles run at once over all devices; None runs all.
        mesh: devices, with an axis named "particle"; None leaves placement to JAX.

    Returns:
        The state after each round, of all prompts, and the candidates of the round, of those at
        `places`; two rounds at once where stages take turns.
    """
    policy = searcher if traced is None else traced
    before = begin(key, policy, problem, prompts)
    chunks = search_in_chunks(
        key, policy, problem, prompts,
        rounds_per_chunk=1, state=before, microbatch=microbatch, mesh=mesh,
    )  # fmt: skip
    looked_at = _at(prompts, places)
    for index, (stage, _) in enumerate(with_first(stages_of(searcher, problem))):
        for _, after in zip(range(stage.rounds), chunks, strict=False):
            state = before._replace(
                searcher=_at(before.searcher, places),
                **{name: _at(getattr(before, name), places) for name in _OF_PROMPTS},
                trace=jax.tree.map(lambda leaf: leaf[:, jnp.asarray(places)], before.trace),
            )
            rounds = []
            for turn_index in range(len(stage.turns)):
                state, tried = _round(
                    key, problem, looked_at, state, searcher=searcher, stage_index=index,
                    turn_index=turn_index, microbatch=microbatch,
                )  # fmt: skip
                rounds.append(jax.tree.map(np.asarray, tried))
            yield after, rounds
            before = after


_OF_PROMPTS = ("best", "score", "scores", "cost")


def _at(tree: PyTree, places: Sequence[int]) -> PyTree:
    """The leaves [P, ...] at some places."""
    return jax.tree.map(lambda leaf: leaf[jnp.asarray(places)], tree)
