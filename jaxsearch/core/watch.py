"""A search watched round by round: which candidates were tried, and what became of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.noise import prompt_keys
from jaxsearch.core.search import Turn, ask, begin, tell
from jaxsearch.core.space import stages_of, with_first
from jaxsearch.core.types import (
    Array,
    Legs,
    Noise,
    Problem,
    Prompts,
    Searcher,
    SearchState,
)


class Tried(NamedTuple):
    """The candidates of one round."""

    score: Array  # [P, K]
    begin: Array  # [P, K] int32, the solver step from which each went
    end: Array  # [P, K] int32, and to which; the same of one that rests
    way: Array  # [P, K, T + 1] uint32, a fingerprint of each of the noises that made it


def fingerprint(noise: Noise, active: tuple[bool, ...], legs: Legs | None = None) -> Array:
    """A number for each noise of recipes [..., T + 1, M], equal where the noises are: [..., T + 1].

    Two samples share the way to a step if all of their numbers up to it are equal. Noises without
    an effect count as equal, and so do terms in another order. What was before a renoising counts
    as part of the initial noise.
    """
    rows = _mixed(noise)
    if legs is not None:
        steps = (legs.end * 4099 + legs.back).astype(jnp.uint32)
        way = _weighted(_mixed(legs.noise)) + steps
        gone = jnp.where(legs.back < legs.end, _stirred(way), jnp.uint32(0))
        rows = rows.at[..., 0].add(jnp.sum(gone, axis=-1))
    return jnp.where(jnp.asarray((True, *active)), rows, jnp.uint32(0))


def _mixed(noise: Noise) -> Array:
    """[..., T + 1] of noises [..., T + 1, M]."""
    data = jax.random.key_data(noise.keys)
    term = jax.lax.bitcast_convert_type(noise.coefs, jnp.uint32)
    for word in range(data.shape[-1]):
        term = _stirred(term + data[..., word] * jnp.uint32(0x9E3779B1))
    mixed = jnp.sum(jnp.where(noise.coefs != 0, term, jnp.uint32(0)), axis=-1)
    if noise.free is None:
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
    *,
    microbatch: int | None = None,
) -> Iterator[tuple[SearchState, Tried]]:
    """The same search as `search`, handed back with the candidates of each round, on the host.

    What it computes is what `search` does, but not in one program: a compiler may round otherwise.
    Where two candidates are as good as equal, another one may then go on.

    Arguments are those of `search`.
    """
    state = begin(key, searcher, problem, prompts)
    for index, (stage, _) in enumerate(with_first(stages_of(searcher, problem))):
        for _ in range(stage.rounds):
            for turn_index in range(len(stage.turns)):
                state, tried = _round(
                    key, problem, prompts, state, searcher=searcher, stage_index=index,
                    turn_index=turn_index, microbatch=microbatch,
                )  # fmt: skip
                yield state, jax.tree.map(np.asarray, tried)
