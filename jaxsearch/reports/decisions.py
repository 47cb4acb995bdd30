"""How a search came to what it found: the decisions, and the way of the found sample.

A run keeps its config, its seed and the recipes of its winners. A search hangs on nothing else, so
it can be carried out once more and watched; that it is the run's own is seen from the recipes in
which it ends. All prompts are searched, as in the run: of fewer, a compiler rounds otherwise, and
where two candidates are as good as equal another one may win.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.pixels import to_pixels
from jaxsearch.core.replay import retrace
from jaxsearch.core.types import Array, Legs, Noise, Problem, Prompts, Verifier
from jaxsearch.core.watch import Tried, fingerprint, watch
from jaxsearch.parallel import replicated
from jaxsearch.runs.build import Built, Made, build, look_by
from jaxsearch.runs.config import Config
from jaxsearch.runs.driving import mesh_of
from jaxsearch.runs.publish import plain_recipes


class Tree(NamedTuple):
    """All candidates of one prompt in the order in which they were tried; those at rest left out.

    A candidate's parent is the one whose way it goes on with.
    """

    round: np.ndarray  # [C] int, from 0
    number: np.ndarray  # [C] int, among those of its round, from 0
    begin: np.ndarray  # [C] int, the solver step from which it went
    end: np.ndarray  # [C] int, and to which
    score: np.ndarray  # [C], -inf where a verifier failed
    parent: np.ndarray  # [C] int, the candidate whose way it goes on with; -1: none
    won: np.ndarray  # [C] bool, whether the found sample is it or comes from it


class Way(NamedTuple):
    """A sample after each of its solver steps."""

    images: np.ndarray  # [T, h, w, c] uint8, of what was scored
    scores: np.ndarray  # [T, V] by verifier, not finite where it failed
    taken: np.ndarray  # [T] bool; of a sample that was renoised there is the way since then


class Decisions(NamedTuple):
    """What is known of the search of one prompt."""

    tree: Tree
    plain: Way
    found: Way
    same: bool  # whether the search has ended, here too, in the recipe that the run has


def decisions_of(
    config: Config, noise: Noise, legs: Legs | None, places: Sequence[int]
) -> list[Decisions]:
    """Carries out a run's search once more, and follows the samples of some prompts step by step.

    Args:
        config: of the run.
        noise: [P, T + 1, M] recipes of all its prompts.
        legs: [P, B] of them, where samples were renoised.
        places: of the prompts in the config's list.

    Raises:
        UserError: if what the config names cannot be made.
    """
    built, mesh = build(config), mesh_of(None)
    problem, prompts = replicated((built.problem, built.prompts), mesh)
    rounds: list[Tried] = []
    for now, tried in watch(
        built.key, built.searcher, problem, prompts, places,
        traced=built.traced, microbatch=config.microbatch, mesh=mesh,
    ):  # fmt: skip
        rounds += tried
        best, score = now.best, now.score
    at = jnp.asarray(places)
    prompts, best, noise, legs = jax.tree.map(
        lambda leaf: leaf[at], (built.prompts, best, noise, legs)
    )
    score = np.asarray(score)[at]
    few = built._replace(prompts=prompts)
    found = _ways(few, noise, legs, config.microbatch)
    plain = _ways(few, *plain_recipes(few, noise, legs), config.microbatch)
    active = built.problem.solver.active

    def ends(noise: Noise, legs: Legs | None, exact: bool) -> np.ndarray:
        return np.asarray(fingerprint(noise, active, legs, exact=exact))

    same = (ends(best.noise, best.legs, True) == ends(noise, legs, True)).all(axis=1)
    by_key = ends(best.noise, best.legs, False)
    return [
        Decisions(
            tree_of(rounds, index, by_key[index], float(score[index])),
            plain[index], found[index], bool(same[index]),
        )
        for index in range(len(places))
    ]  # fmt: skip


def tree_of(rounds: Sequence[Tried], prompt: int, end: np.ndarray, score: float) -> Tree:
    """The candidates of a prompt.

    Args:
        rounds: [R] of the search.
        prompt: its place among those searched.
        end: [T + 1] the fingerprint of the found sample.
        score: of the found sample, by which it is told from others of the same keys.
    """
    rows: list[tuple[Any, ...]] = []
    first: dict[tuple[int, bytes], int] = {}  # by the way up to a step
    for number_of_round, tried in enumerate(rounds):
        known = dict(first)  # candidates of one round go on from those of earlier ones
        for number in range(tried.score.shape[1]):
            begin, reached = int(tried.begin[prompt, number]), int(tried.end[prompt, number])
            if begin == reached:
                continue
            way = tried.way[prompt, number]
            parent = known.get((begin, way[: begin + 1].tobytes()), -1) if begin else -1
            won = bool(np.array_equal(way[: reached + 1], end[: reached + 1]))
            first.setdefault((reached, way[: reached + 1].tobytes()), len(rows))
            own = float(tried.score[prompt, number])
            rows.append((number_of_round, number, begin, reached, own, parent, won))
    columns = zip(*rows, strict=True) if rows else [()] * len(Tree._fields)
    kinds = (int, int, int, int, float, int, bool)
    tree = Tree(*(np.asarray(list(c), kind) for c, kind in zip(columns, kinds, strict=True)))
    finished = np.flatnonzero(tree.won & (tree.end == len(end) - 1))
    if len(finished) > 1:  # what differs in a coefficient or a free part alone
        distance = np.nan_to_num(np.abs(tree.score[finished] - score), nan=0.0)
        tree.won[np.delete(finished, np.argmin(distance))] = False
    return tree


def _ways(built: Built, noise: Noise, legs: Legs | None, microbatch: int | None) -> list[Way]:
    """Of each recipe [P, T + 1, M] the way that its sample goes."""
    verifiers = tuple(built.verifiers.values())
    made, taken = jax.device_get(
        _steps(built.problem, verifiers, noise, built.prompts, legs=legs, microbatch=microbatch)
    )
    return [
        Way(to_pixels(made.images[:, i]), made.scores[:, i], taken[:, i])
        for i in range(taken.shape[1])
    ]


@functools.partial(jax.jit, static_argnames="microbatch")
def _steps(
    problem: Problem,
    verifiers: tuple[Verifier, ...],
    noise: Noise,
    prompts: Prompts,
    *,
    legs: Legs | None,
    microbatch: int | None,
) -> tuple[Made, Array]:
    return retrace(problem, noise, prompts, look_by(verifiers), legs=legs, microbatch=microbatch)
