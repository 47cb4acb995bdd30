"""The host loop: the same search, with its verifier outside the program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsearch.core.evaluate import aggregate, expand, judged
from jaxsearch.core.noise import prompt_keys
from jaxsearch.core.search import Turn, ask, begin, tell
from jaxsearch.core.space import stages_of, with_first
from jaxsearch.core.types import (
    Array,
    Problem,
    Prompts,
    Proposal,
    PyTree,
    Searcher,
    SearchState,
    Verifier,
)


class Graded(NamedTuple):
    """Scores of the host, where not every verifier was asked about every image."""

    scores: np.ndarray  # [n, V]; not finite where a verifier failed or was not asked
    asked: np.ndarray  # [n, V] bool: what counts as a verifier call


Score = Callable[[np.ndarray, np.ndarray], np.ndarray | Graded]
"""`(images [n,h,w,c] float32 in [0,1], prompt ids [n]) -> [n]`, `[n, V]` or `Graded`."""


def _turn(
    searcher: Searcher, problem: Problem, state: SearchState, stage_index: int, turn_index: int
) -> Turn:
    """The round that comes next, of a stage and its place among those that take turns."""
    stage, first = with_first(stages_of(searcher, problem))[stage_index]
    return Turn(stage.turns[turn_index], (state.round - first) // len(stage.turns))


@functools.partial(
    jax.jit, static_argnames=("searcher", "stage_index", "turn_index", "microbatch", "mesh")
)
def _propose(
    key: Array,
    problem: Problem,
    prompts: Prompts,
    state: SearchState,
    *,
    searcher: Searcher,
    stage_index: int,
    turn_index: int,
    microbatch: int | None,
    mesh: Mesh | None,
):
    """A round up to the point where images wait for their scores."""
    turn = _turn(searcher, problem, state, stage_index, turn_index)
    proposal = ask(prompt_keys(key, prompts), turn, state)
    child, images, spent, _ = expand(
        problem,
        proposal,
        prompts,
        lambda problem, latents, context: problem.objective.decoder(latents),
        microbatch=microbatch,
        mesh=mesh,
    )
    return proposal, child, images, spent


@functools.partial(jax.jit, static_argnames=("searcher", "stage_index", "turn_index"))
def _conclude(
    key, problem, prompts, state, proposal, child, scores, spent, *,
    searcher, stage_index, turn_index,
):  # fmt: skip
    """The rest of the round, once the scores [P, K] are there."""
    turn = _turn(searcher, problem, state, stage_index, turn_index)
    evaluation = aggregate(problem, proposal, child, scores)
    return tell(prompt_keys(key, prompts), problem, turn, state, proposal, evaluation, spent)


def _elsewhere(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
    raise NotImplementedError("a verifier of the host is not called inside a program")


def _with_verifiers(problem: Problem, num: int) -> Problem:
    """The problem with so many verifiers, none of which can be called."""
    verifiers = (Verifier(name="host", apply=_elsewhere),) * num
    objective = dataclasses.replace(problem.objective, verifiers=verifiers)
    return dataclasses.replace(problem, objective=objective)


def _asked(
    score: Score,
    proposal: Proposal,
    images: np.ndarray,
    ids: np.ndarray,
    num_verifiers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The scores [P, K, V] of images [P, K, ...], and how many of each prompt's [P] were asked for.

    Those of candidates that rest are not asked for. Where all rest nobody is asked, and
    `num_verifiers` says how many there are.
    """
    shape = images.shape[:2]
    wanted = np.ones(shape, bool) if proposal.steps is None else np.asarray(proposal.steps) > 0
    number = int(wanted.sum())
    if not number:
        return np.full((*shape, num_verifiers), -np.inf, np.float32), np.zeros(len(ids), np.int32)
    asked, owners = images[wanted], np.broadcast_to(ids[:, None], shape)[wanted]
    said = score(asked, owners)
    found = np.asarray(said.scores if isinstance(said, Graded) else said, np.float32)
    if found.shape[:1] != (number,) or found.ndim > 2:
        raise ValueError(
            f"score returned the shape {found.shape} for images {asked.shape}: return one "
            f"number per image, {(number,)}"
        )
    found = found.reshape((number, -1))
    scores = np.full((*shape, found.shape[1]), -np.inf, np.float32)
    scores[wanted] = found
    counted = np.ones(found.shape, bool)
    if isinstance(said, Graded):
        counted = np.asarray(said.asked, bool)
        if counted.shape != found.shape:
            raise ValueError(
                f"score returned scores of the shape {found.shape} and asked {counted.shape}: "
                "both are [n, V]"
            )
    calls = np.zeros(shape, np.int32)
    calls[wanted] = counted.sum(axis=1)
    return scores, calls.sum(axis=1, dtype=np.int32)


def search_on_host(
    key: Array,
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    score: Score,
    *,
    state: SearchState | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Iterator[SearchState]:
    """The same search with its verifier on the host: a remote service, a person, any function.

    The device waits while `score` works, and nothing is called back from inside a program, so a
    search can be stopped at any round and taken up again. Yields the state after each round.

    Args:
        score: `(images [n,h,w,c] float32 in [0,1], prompt ids [n]) -> [n]` or `[n,V]`, of the
            images that the round wants scored: prompt by prompt, and none of candidates that rest.
            One that is not finite is a failure and never wins. Where not all verifiers were asked
            about all images it gives a `Graded`, and calls are counted by that. The objective's
            decoder and aggregate are used; its own verifiers are not asked.
        state: where to go on; None begins.

    The other arguments are those of `search`.

    Raises:
        ValueError: if `score` returns another shape, or other verifiers than in the first round;
            if the searcher needs gradients.
    """
    stages = with_first(stages_of(searcher, problem))
    if any(turn.gradient is not None for stage, _ in stages for turn in stage.turns):
        raise ValueError(
            f"{searcher.name} climbs gradients, and a score of the host has none: give the problem "
            "a verifier and call search, or take zero_order or best_of_n"
        )
    if state is None:
        state = begin(key, searcher, problem, prompts)
    done = int(state.round)
    ids = np.asarray(prompts.ids)
    for index, (stage, first) in enumerate(stages):
        while done < first + stage.rounds * len(stage.turns):
            turn = (done - first) % len(stage.turns)
            static = {"searcher": searcher, "stage_index": index, "turn_index": turn}
            proposal, child, images, spent = _propose(
                key, problem, prompts, state, microbatch=microbatch, mesh=mesh, **static
            )
            scores, calls = _asked(score, proposal, np.asarray(images), ids, state.scores.shape[1])
            if state.scores.shape[1] != scores.shape[2]:
                if done:
                    raise ValueError(
                        f"score returned {scores.shape[2]} numbers per image in round {done}, but "
                        f"{state.scores.shape[1]} before: return the same verifiers in each round"
                    )
                # The first round tells how many verifiers there are.
                state = begin(key, searcher, _with_verifiers(problem, scores.shape[2]), prompts)
            spent = judged(spent, proposal, scores.shape[2])._replace(
                verifier_calls=jnp.asarray(calls)
            )
            state = _conclude(
                key, problem, prompts, state, proposal, child, scores, spent, **static
            )
            done += 1
            yield state
