"""The driver: `ask -> evaluate -> tell`, round after round, for all prompts at once."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsearch.core.evaluate import aggregate, evaluate, expand
from jaxsearch.core.noise import fresh, fresh_trajectory, realise, select
from jaxsearch.core.types import (
    Array,
    Cost,
    Evaluation,
    Noise,
    NoiseSpace,
    Particle,
    Problem,
    Prompts,
    Proposal,
    Searcher,
    SearchResult,
    SearchState,
    Stage,
    Trace,
)


def noise_space(problem: Problem, rank: int) -> NoiseSpace:
    """What a searcher of rank `M` may know of a problem."""
    solver, shape = problem.solver, problem.denoiser.shape
    schedule = solver.schedule
    scale = float(schedule.process.prior_scale(schedule.times[0]))

    def root(noise: Noise, value: Array | None = None) -> Particle:
        lead = noise.coefs.shape[:-1]
        value = realise(noise, shape) if value is None else value
        keys = jnp.broadcast_to(noise.keys[..., None, :], (*lead, solver.num_steps + 1, rank))
        coefs = jnp.zeros(keys.shape, jnp.float32).at[..., 0, :].set(noise.coefs)
        memory = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, lead + leaf.shape), solver.memory(shape)
        )
        x = scale * value
        return Particle(
            x, jnp.zeros_like(x), jnp.zeros(lead, jnp.int32), Noise(keys, coefs), memory
        )

    return NoiseSpace(shape, solver.num_steps, solver.active, rank, root)


def stages_of(searcher: Searcher, problem: Problem) -> tuple[Stage, ...]:
    """The stages a searcher goes through on a problem.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    return searcher.stages(noise_space(problem, searcher.rank))


def _with_first(stages: tuple[Stage, ...]) -> list[tuple[Stage, int]]:
    """Each stage with the number of rounds before it."""
    ends = itertools.accumulate(stage.rounds for stage in stages)
    return [(stage, end - stage.rounds) for stage, end in zip(stages, ends, strict=True)]


def _prompt_keys(key: Array, prompts: Prompts) -> Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, prompts.ids)


def _folded(keys: Array, number: Array | int) -> Array:
    """Keys [P], each folded with the same number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def start(key: Array, searcher: Searcher, problem: Problem, prompts: Prompts) -> SearchState:
    """The state before the first round. The key is the whole search's."""
    space = noise_space(problem, searcher.rank)
    num_prompts = prompts.ids.shape[0]
    rounds = sum(stage.rounds for stage in searcher.stages(space))
    init_keys = _folded(_prompt_keys(key, prompts), 0)
    nothing = fresh(init_keys, searcher.rank)
    nothing = nothing._replace(coefs=jnp.zeros_like(nothing.coefs))
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


def ask(prompt_keys: Array, stage: Stage, first: Array | int, state: SearchState) -> Proposal:
    """The proposal [P, K] of the round that comes next in a stage whose first round is `first`."""
    keys = _folded(prompt_keys, 2 * state.round + 1)
    return jax.vmap(stage.ask, in_axes=(0, None, 0))(keys, state.round - first, state.searcher)


def tell(
    prompt_keys: Array,
    stage: Stage,
    first: Array | int,
    state: SearchState,
    proposal: Proposal,
    evaluation: Evaluation,
    spent: Cost,
) -> SearchState:
    """The state after a round whose proposal got this evaluation at this cost [P]."""
    keys = _folded(prompt_keys, 2 * state.round + 2)
    searcher_state = jax.vmap(stage.tell, in_axes=(0, None, 0, 0, 0))(
        keys, state.round - first, state.searcher, proposal, evaluation
    )
    best = Evaluation(state.best, state.score, state.scores)
    if stage.finishes:
        best = _better(best, evaluation)
    cost = jax.tree.map(jnp.add, state.cost, spent)
    entry = Trace(best.score, jnp.max(evaluation.score, axis=1), cost)
    trace = jax.tree.map(lambda rows, row: rows.at[state.round].set(row), state.trace, entry)
    return SearchState(searcher_state, *best, cost, trace, state.round + 1)


def _better(best: Evaluation, evaluation: Evaluation) -> Evaluation:
    """The best finished sample of each prompt [P], after an evaluation [P, K]."""
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
    num_rounds: Array | int,
    microbatch: int | None,
    mesh: Mesh | None,
) -> SearchState:
    prompt_keys = _prompt_keys(key, prompts)

    def one_round(_: Array, state: SearchState) -> SearchState:
        proposal = ask(prompt_keys, stage, first, state)
        evaluation, spent = evaluate(problem, proposal, prompts, microbatch=microbatch, mesh=mesh)
        return tell(prompt_keys, stage, first, state, proposal, evaluation, spent)

    # A length the compiler cannot see: it would unroll a loop of one round and round its sums
    # otherwise than the chunks of `search_in_chunks`, which must give the same bits.
    num_rounds = jax.lax.optimization_barrier(jnp.int32(num_rounds))
    return jax.lax.fori_loop(0, num_rounds, one_round, state)


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
    for stage, first in _with_first(stages_of(searcher, problem)):
        state = _rounds(key, stage, first, problem, prompts, state, stage.rounds, microbatch, mesh)
    return result_of(state)


_start = jax.jit(start, static_argnames="searcher")


@functools.partial(jax.jit, static_argnames=("searcher", "stage_index", "microbatch", "mesh"))
def _advance(
    key: Array,
    problem: Problem,
    prompts: Prompts,
    state: SearchState,
    num_rounds: Array,
    *,
    searcher: Searcher,
    stage_index: int,
    microbatch: int | None,
    mesh: Mesh | None,
) -> SearchState:
    stage, first = _with_first(stages_of(searcher, problem))[stage_index]
    return _rounds(key, stage, first, problem, prompts, state, num_rounds, microbatch, mesh)


def search_in_chunks(
    key: Array,
    searcher: Searcher,
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
        rounds_per_chunk: rounds between two states, or a function asked before each chunk; chunks
            also end where a stage ends. It may change freely, nothing is compiled again.
        state: where to go on; None begins.

    The other arguments are those of `search`.
    """
    stages = stages_of(searcher, problem)
    if state is None:
        state = _start(key, searcher, problem, prompts)
    done, end = int(state.round), 0
    for index, stage in enumerate(stages):
        end += stage.rounds
        while done < end:
            wanted = rounds_per_chunk() if callable(rounds_per_chunk) else rounds_per_chunk
            num = min(max(wanted, 1), end - done)
            state = _advance(
                key, problem, prompts, state, jnp.int32(num),
                searcher=searcher, stage_index=index, microbatch=microbatch, mesh=mesh,
            )  # fmt: skip
            done += num
            yield state


@functools.partial(jax.jit, static_argnames=("searcher", "stage_index", "microbatch", "mesh"))
def _propose(
    key: Array,
    problem: Problem,
    prompts: Prompts,
    state: SearchState,
    *,
    searcher: Searcher,
    stage_index: int,
    microbatch: int | None,
    mesh: Mesh | None,
):
    """A round up to the point where images wait for their scores."""
    stage, first = _with_first(stages_of(searcher, problem))[stage_index]
    proposal = ask(_prompt_keys(key, prompts), stage, first, state)
    return proposal, expand(
        problem,
        proposal,
        prompts,
        lambda latents, context: problem.objective.decoder(latents),
        microbatch=microbatch,
        mesh=mesh,
    )


@functools.partial(jax.jit, static_argnames=("searcher", "stage_index"))
def _conclude(
    key, problem, prompts, state, proposal, child, scores, spent, *, searcher, stage_index
):
    """The rest of the round, once the scores [P, K] are there."""
    stage, first = _with_first(stages_of(searcher, problem))[stage_index]
    evaluation = aggregate(problem, child, scores)
    return tell(_prompt_keys(key, prompts), stage, first, state, proposal, evaluation, spent)


def search_on_host(
    key: Array,
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    state: SearchState | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[SearchState]:
    """The same search with its verifier on the host: a remote service, a person, any function.

    The device waits while `score` works, and nothing is called back from inside a program, so a
    search can be stopped at any round and taken up again. Yields the state after each round.

    Args:
        score: `(images [P,K,h,w,c] float32 in [0,1], prompt ids [P]) -> [P,K]` or `[P,K,V]`.
            The objective's decoder and aggregate are used; its own verifiers are not asked.
        state: where to go on; None begins.

    The other arguments are those of `search`.

    Raises:
        ValueError: if `score` returns another shape.
    """
    stages = stages_of(searcher, problem)
    if state is None:
        state = _start(key, searcher, problem, prompts)
    num_prompts, done, end = prompts.ids.shape[0], int(state.round), 0
    ids = np.asarray(prompts.ids)
    for index, stage in enumerate(stages):
        end += stage.rounds
        static = {"searcher": searcher, "stage_index": index}
        while done < end:
            proposal, (child, images, spent) = _propose(
                key, problem, prompts, state, microbatch=microbatch, mesh=mesh, **static
            )
            scores = np.asarray(score(np.asarray(images), ids), np.float32)
            num_candidates = images.shape[1]
            if scores.shape[:2] != (num_prompts, num_candidates) or scores.ndim > 3:
                raise ValueError(
                    f"score returned the shape {scores.shape} for images {images.shape}: "
                    f"return one number per image, {(num_prompts, num_candidates)}"
                )
            scores = scores.reshape((num_prompts, num_candidates, -1))
            if state.scores.shape[1] != scores.shape[2]:  # the first round tells how many verifiers
                state = state._replace(scores=jnp.full((num_prompts, scores.shape[2]), -jnp.inf))
            decodes = jnp.full((num_prompts,), num_candidates, jnp.int32)
            spent = spent._replace(decodes=decodes, verifier_calls=decodes * scores.shape[2])
            state = _conclude(
                key, problem, prompts, state, proposal, child, scores, spent, **static
            )
            done += 1
            yield state


@functools.partial(jax.jit, static_argnames=("microbatch", "mesh"))
def replay(
    problem: Problem,
    noise: Noise,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Particle:
    """Makes the samples [P] again from their noise recipes [P, T + 1, M] alone."""
    space = noise_space(problem, noise.coefs.shape[-1])
    root = space.root(jax.tree.map(lambda leaf: leaf[:, None, 0], noise))
    steps = jax.tree.map(lambda leaf: leaf[:, None, 1:], noise)
    child = expand(
        problem,
        Proposal(root, steps),
        prompts,
        lambda latents, context: (),
        microbatch=microbatch,
        mesh=mesh,
    ).child
    return jax.tree.map(lambda leaf: leaf[:, 0], child)


def plain_noise(key: Array, problem: Problem, prompts: Prompts) -> Noise:
    """The recipes [P, T + 1, 1] of plain samples: candidate 0 of every searcher under this key."""
    space = noise_space(problem, 1)
    candidates = _folded(_folded(_prompt_keys(key, prompts), 0), 0)
    return jax.vmap(lambda candidate: fresh_trajectory(space, candidate))(candidates)


def sample(
    key: Array,
    problem: Problem,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Particle:
    """Plain samples [P], without a search."""
    noise = plain_noise(key, problem, prompts)
    return replay(problem, noise, prompts, microbatch=microbatch, mesh=mesh)
