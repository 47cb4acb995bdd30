"""The driver: `ask -> evaluate -> tell`, round after round, for all prompts at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxsearch.core.evaluate import combined, evaluate
from jaxsearch.core.noise import fresh, prompt_keys, select
from jaxsearch.core.random import fold_in
from jaxsearch.core.space import noise_space, num_rounds, stages_of, with_first
from jaxsearch.core.traced import Fixed, Traced
from jaxsearch.core.types import (
    Array,
    Cost,
    Evaluation,
    Problem,
    Prompts,
    Proposal,
    Searcher,
    SearchResult,
    SearchState,
    Stage,
    Trace,
)


def start(key: Array, searcher: Searcher, problem: Problem, prompts: Prompts) -> SearchState:
    """The state before the first round. The key is the whole search's.

    Raises:
        TypeError: if the key is not a typed one.
        ValueError: if the parts of the search do not go together.
    """
    _check(key, prompts)
    aggregate = problem.objective.aggregate
    if searcher.absolute_scores is not None and aggregate.relative:
        raise ValueError(
            f"{searcher.name} {searcher.absolute_scores}, but {aggregate.name} says only how the "
            "candidates of one round compare: take another aggregate"
        )
    space = noise_space(problem, searcher.rank, searcher.renoisings)
    num_prompts = prompts.ids.shape[0]
    rounds = num_rounds(searcher.stages(space))
    init_keys = fold_in(prompt_keys(key, prompts), 0)
    nothing = fresh(init_keys, searcher.rank)
    free = jnp.zeros((num_prompts, *space.shape)) if searcher.free else None
    nothing = nothing._replace(coefs=jnp.zeros_like(nothing.coefs), free=free)
    lowest = jnp.full((num_prompts,), -jnp.inf)
    spent = Cost(*(jnp.zeros((num_prompts,), jnp.int32) for _ in Cost._fields))
    trace = Trace(lowest, lowest, spent)
    return SearchState(
        searcher=jax.vmap(functools.partial(searcher.init, space))(init_keys),
        best=space.root(nothing, jnp.zeros((num_prompts, *space.shape))),
        score=lowest,
        scores=jnp.full((num_prompts, len(problem.objective.verifiers)), -jnp.inf),
        cost=spent,
        trace=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rounds, *leaf.shape)), trace),
        round=jnp.zeros((), jnp.int32),
    )


def _check(key: Array, prompts: Prompts) -> None:
    """Refuses what would fail later on, or work and mean something else."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
        raise TypeError(f"the key is a {key.dtype} {key.shape}: pass one jax.random.key(seed)")
    if prompts.ids.ndim != 1 or not prompts.ids.size:
        raise ValueError(f"prompts.ids has the shape {prompts.ids.shape}: pass [P] of at least 1")
    for path, leaf in jax.tree_util.tree_leaves_with_path((prompts.cond, prompts.context)):
        if leaf.shape[:1] != prompts.ids.shape:
            where = ("cond", "context")[path[0].idx] + jax.tree_util.keystr(path[1:])
            raise ValueError(
                f"prompts.{where} has the shape {leaf.shape} for {prompts.ids.size} prompts: "
                "its first axis is the prompts"
            )


class Turn(NamedTuple):
    """Which stage has the next round, and which of its own rounds that is."""

    stage: Stage
    round: Array


def ask(keys: Array, turn: Turn, state: SearchState) -> Proposal:
    """The proposal [P, K] of the round that comes next."""
    ask_keys = fold_in(keys, 2 * state.round + 1)
    return jax.vmap(turn.stage.ask, in_axes=(0, None, 0))(ask_keys, turn.round, state.searcher)


def tell(
    keys: Array,
    problem: Problem,
    turn: Turn,
    state: SearchState,
    proposal: Proposal,
    evaluation: Evaluation,
    spent: Cost,
) -> SearchState:
    """The state after a round whose proposal got this evaluation at this cost [P]."""
    tell_keys = fold_in(keys, 2 * state.round + 2)
    searcher_state = jax.vmap(turn.stage.tell, in_axes=(0, None, 0, 0, 0))(
        tell_keys, turn.round, state.searcher, proposal, evaluation
    )
    best = Evaluation(state.best, state.score, state.scores)
    if turn.stage.finishes:
        best = _better(problem, best, evaluation._replace(gradient=None))
    cost = jax.tree.map(jnp.add, state.cost, spent)
    entry = Trace(best.score, jnp.max(evaluation.score, axis=1), cost)
    trace = jax.tree.map(lambda rows, row: rows.at[state.round].set(row), state.trace, entry)
    found = (best.child, best.score, best.scores)
    return SearchState(searcher_state, *found, cost, trace, state.round + 1)


def _better(problem: Problem, best: Evaluation, evaluation: Evaluation) -> Evaluation:
    """The best finished sample of each prompt [P], after an evaluation [P, K]."""
    if problem.objective.aggregate.relative:
        # The best so far is compared anew, among this round's.
        scores = jnp.concatenate([evaluation.scores, best.scores[:, None]], axis=1)
        again = combined(problem, scores)
        best = best._replace(score=again[:, -1])
        evaluation = evaluation._replace(score=again[:, :-1])
    num_steps = evaluation.child.noise.coefs.shape[-2] - 1
    finished = evaluation.child.step == num_steps
    # A finished sample that scored -inf still goes before one that is not finished.
    rank = jnp.where(finished, jnp.maximum(evaluation.score, jnp.finfo(jnp.float32).min), -jnp.inf)
    index = jnp.argmax(rank, axis=1)
    top = jax.tree.map(lambda leaf: jax.vmap(lambda row, i: row[i])(leaf, index), evaluation)
    beats = (top.score > best.score) | (best.child.step < num_steps)
    return select((top.child.step == num_steps) & beats, top, best)


def _rounds(
    key: Array,
    stage: Stage,
    first: int,
    problem: Problem,
    prompts: Prompts,
    state: SearchState,
    num: Array | int,
    microbatch: int | None,
    mesh: Mesh | None,
) -> SearchState:
    """Runs `num` rounds of a stage, and of each that takes turns with it."""
    keys = prompt_keys(key, prompts)

    def one_round(_: Array, state: SearchState) -> SearchState:
        own = (state.round - first) // len(stage.turns)
        for turn in (Turn(one, own) for one in stage.turns):
            proposal = ask(keys, turn, state)
            evaluation, spent = evaluate(
                problem,
                proposal,
                prompts,
                gradient=turn.stage.gradient,
                microbatch=microbatch,
                mesh=mesh,
            )
            state = tell(keys, problem, turn, state, proposal, evaluation, spent)
        return state

    # A length the compiler cannot see: it would unroll a loop of one round and round its sums
    # otherwise than the chunks of `search_in_chunks`, which must give the same bits.
    num = jax.lax.optimization_barrier(jnp.int32(num))
    return jax.lax.fori_loop(0, num, one_round, state)


def result_of(state: SearchState) -> SearchResult:
    """What a finished search has found."""
    return SearchResult(state.best, state.score, state.scores, state.cost, state.trace)


@functools.partial(jax.jit, static_argnames=("searcher", "microbatch", "mesh"))
def search(
    key: Array,
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> SearchResult:
    """Searches the noise of all prompts in one compiled program.

    The result of a prompt depends on `key`, its id and what is asked for; not on the other prompts,
    the microbatch or the devices.

    Args:
        key: a typed PRNG key (`jax.random.key`).
        searcher: the policy. Compiled programs are kept per searcher object: reuse it.
        problem: denoiser, solver, objective and value.
        prompts: [P].
        microbatch: particles run at once over all devices; None runs all `P*K`.
        mesh: devices, with an axis named "particle"; None leaves placement to JAX.

    Raises:
        ValueError: if the searcher cannot work with the solver, or a verifier lacks its context.
    """
    state = start(key, searcher, problem, prompts)
    for stage, first in with_first(stages_of(searcher, problem)):
        state = _rounds(key, stage, first, problem, prompts, state, stage.rounds, microbatch, mesh)
    return result_of(state)


def begin(
    key: Array, searcher: Searcher | Traced, problem: Problem, prompts: Prompts
) -> SearchState:
    """`start` as a compiled program."""
    return _begin(key, _policy(searcher), problem, prompts)


def _policy(searcher: Searcher | Traced) -> Traced | Fixed:
    return searcher if isinstance(searcher, Traced) else Fixed(searcher)


@jax.jit
def _begin(key: Array, policy: Traced | Fixed, problem: Problem, prompts: Prompts) -> SearchState:
    return start(key, policy(), problem, prompts)


@functools.partial(jax.jit, static_argnames=("stage_index", "microbatch", "mesh"))
def _advance(
    key: Array,
    policy: Traced | Fixed,
    problem: Problem,
    prompts: Prompts,
    state: SearchState,
    num: Array,
    *,
    stage_index: int,
    microbatch: int | None,
    mesh: Mesh | None,
) -> SearchState:
    stage, first = with_first(stages_of(policy(), problem))[stage_index]
    return _rounds(key, stage, first, problem, prompts, state, num, microbatch, mesh)


def search_in_chunks(
    key: Array,
    searcher: Searcher | Traced,
    problem: Problem,
    prompts: Prompts,
    *,
    rounds_per_chunk: int | Callable[[], int],
    state: SearchState | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[SearchState]:
    """The same search, handed back every few rounds: for progress, checkpoints and early stops.

    Each state is complete: save it, and pass it as `state` to go on later from there. The last one
    holds the result (`result_of`), identical to that of `search`.

    Args:
        searcher: the policy; or one made by `traced`, for a program that others of its numbers
            share.
        rounds_per_chunk: rounds between two states, or a function asked before each chunk; chunks
            also end where a stage ends, and stages that take turns stop together. It may change
            freely, nothing is compiled again.
        state: where to go on; None begins.

    The other arguments are those of `search`.
    """
    policy = _policy(searcher)
    stages = with_first(stages_of(policy(), problem))
    done = 0 if state is None else int(state.round)
    if state is None:
        state = begin(key, searcher, problem, prompts)
    for index, (stage, first) in enumerate(stages):
        turns = len(stage.turns)
        end = first + stage.rounds * turns
        while done < end:
            wanted = rounds_per_chunk() if callable(rounds_per_chunk) else rounds_per_chunk
            num = min(max(wanted // turns, 1), (end - done) // turns)
            state = _advance(
                key, policy, problem, prompts, state, jnp.int32(num),
                stage_index=index, microbatch=microbatch, mesh=mesh,
            )  # fmt: skip
            done += num * turns
            yield state
