"""The exact checker: what is truly to be seen in a scene, and whether it is what was asked for.

Every picture that a cell can be is known (`world.cells`), so the nearest of them is looked for and
nothing has to be learnt that a search could fool.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.scenes.captions import RELATIONS, Request
from jaxsearch.zoo.scenes.world import (
    CELL,
    GRID,
    NUM_CELLS,
    NUM_KINDS,
    NUM_TINTS,
    OFFSETS,
    cells,
    tiles_of,
)

CONTEXT = ("counts", "first", "second", "relation")
"""What verifiers of scenes read of a request."""
NO_RELATION = len(RELATIONS)

_NOISE = 0.2
"""Standard deviation of a pixel, in [0, 1], under which kinds of things are told apart."""
_FARTHEST = 0.14
"""Root mean square distance, in pixels of [0, 1], from which a cell is none of those there are."""
OTHER = NUM_KINDS + 1
"""What a cell shows that is neither a thing nor the ground."""


def context_of(requests: list[Request]) -> dict[str, np.ndarray]:
    """Requests [P] as arrays: `counts` [P,30], `first`, `second`, `relation` [P], all int32.

    `second` is the first again where there is no second, and `relation` is then `NO_RELATION`.
    """
    counts = np.zeros((len(requests), NUM_KINDS), np.int32)
    for row, request in zip(counts, requests, strict=True):
        row[request.first] = request.number
        if request.second is not None:
            row[request.second] = 1
    one = [(r.first, r.first if r.second is None else r.second,
            NO_RELATION if r.relation is None else r.relation) for r in requests]  # fmt: skip
    first, second, relation = np.asarray(one, np.int32).reshape(-1, 3).T
    return {"counts": counts, "first": first, "second": second, "relation": relation}


@functools.cache
def stands() -> np.ndarray:
    """Whether a cell [4, 16, 16] stands left of, right of, above or below another.

    It is further off in that direction than across it.
    """
    row, column = np.divmod(np.arange(NUM_CELLS), GRID)
    down, right = row[:, None] - row[None], column[:, None] - column[None]
    along = np.stack([-right, right, -down, down])
    across = np.abs(np.stack([down, down, right, right]))
    return along > across


class Seen(NamedTuple):
    """What cells show."""

    probability: Array  # [n, 16, 32] of each kind, of `EMPTY` and of `OTHER`
    tint: Array  # [n] int32


def templates() -> dict[str, Array]:
    """All that cells can be, as the checker's weights."""
    table = cells()
    flat = table.reshape(NUM_TINTS, (NUM_KINDS + 1) * len(OFFSETS), CELL * CELL * 3)
    return {"cells": jnp.asarray(flat), "squares": jnp.asarray(np.sum(flat**2, -1))}


def see(weights: PyTree, images: Array) -> Seen:
    """What the cells of images [n,48,48,3] in [0,1] show.

    The ground is the tint under which all cells together are nearest to what cells can be. Of a
    cell, kinds are then as probable as under Gaussian noise on its pixels.

    Raises:
        ValueError: if images have other sides or channels.
    """
    tiles = tiles_of(images).reshape(len(images), NUM_CELLS, -1)
    products = jnp.einsum(
        "ncp,tkp->ntck", tiles, weights["cells"], precision=jax.lax.Precision.HIGHEST
    )
    squares = jnp.sum(tiles**2, axis=-1)[:, None, :, None]
    distance = squares - 2 * products + weights["squares"][None, :, None]
    distance = distance.reshape(*distance.shape[:3], NUM_KINDS + 1, len(OFFSETS)).min(axis=-1)
    tint = jnp.argmin(jnp.sum(jnp.min(distance, axis=-1), axis=-1), axis=-1)
    distance = jnp.take_along_axis(distance, tint[:, None, None, None], axis=1)[:, 0]
    farthest = jnp.full_like(distance[..., :1], _FARTHEST**2 * tiles.shape[-1])
    energy = jnp.concatenate([distance, farthest], axis=-1) / (2 * _NOISE**2)
    return Seen(jax.nn.softmax(-energy, axis=-1), tint)


def _agreement(probability: Array, context: dict[str, Array]) -> Array:
    """How far what cells show [n,16,32] is what was asked for, in [0, 1]; 1 if it is that exactly.

    Twice what is both asked for and shown over what is asked for and what is shown (F1); where a
    relation is asked for, one half hangs on whether it holds.
    """
    asked = context["counts"].astype(jnp.float32)
    shown = jnp.sum(probability[..., :NUM_KINDS], axis=1)
    other = jnp.sum(probability[..., OTHER], axis=-1)
    both = jnp.sum(jnp.minimum(asked, shown), axis=-1)
    f1 = 2 * both / (jnp.sum(asked, axis=-1) + jnp.sum(shown, axis=-1) + other)

    def where(kind: Array) -> Array:
        found = jnp.take_along_axis(probability, kind[:, None, None], axis=-1)[..., 0]
        return found / jnp.maximum(jnp.sum(found, axis=-1, keepdims=True), 1.0)

    relation = context["relation"]
    beside = jnp.asarray(stands(), jnp.float32)[jnp.minimum(relation, NO_RELATION - 1)]
    holds = jnp.einsum(
        "nc,ncd,nd->n", where(context["first"]), beside, where(context["second"]),
        precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    return jnp.where(relation == NO_RELATION, f1, (f1 + holds) / 2)


def _graded(weights: PyTree, images: Array, context: dict[str, Array]) -> Array:
    return _agreement(see(weights, images).probability, context)


def _boolean(weights: PyTree, images: Array, context: dict[str, Array]) -> Array:
    probability = see(weights, images).probability
    certain = jax.nn.one_hot(jnp.argmax(probability, axis=-1), probability.shape[-1])
    return (_agreement(certain, context) > 1 - 1e-6).astype(jnp.float32)


_FORMS = {"graded": _graded, "boolean": _boolean}


@facts(Facts((0, 1), "form=graded", ("prompt",)))
@functools.cache
def exact(*, form: Literal["boolean", "graded"] = "boolean") -> Verifier:
    """Whether a scene shows exactly what was asked for, and nothing else: nothing fools it.

    Args:
        form: "boolean" (1 or 0), as GenEval judges; or "graded", how far: the F1 measure of things
            asked for and shown, of which half goes to the relation where one is asked for.

    Raises:
        ValueError: if the form is unknown.
    """
    if form not in _FORMS:
        raise ValueError(f"form is {form!r}: it must be 'boolean' or 'graded'")
    return Verifier(name="exact", apply=_FORMS[form], needs=CONTEXT, params=templates())
