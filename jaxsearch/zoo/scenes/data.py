"""Scenes with captions, as many as are wanted: what the networks of the scenes learn from."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array
from jaxsearch.zoo.scenes.captions import TASKS, Request, sample_request, tokenise, write
from jaxsearch.zoo.scenes.check import stands
from jaxsearch.zoo.scenes.world import EMPTY, NUM_CELLS, NUM_TINTS, OFFSETS, Scene, draw

HELD_OUT = 1_000_003
"""Seed of scenes that are drawn apart from those that networks learn from.

There are so few ways to ask for things of one kind that those captions are met again; of two kinds
hardly any are.
"""
_SHARES = {"single": 0.2, "counting": 0.25, "pair": 0.25, "relation": 0.3}


class Pool(NamedTuple):
    """Scenes [n] with captions; tints and offsets are drawn when they are looked at."""

    kind: Array  # [n, 16] int8
    tokens: Array  # [n, 16] int8
    asked: Array  # [n] int32, equal for captions that ask for the same


def arrange(request: Request, rng: np.random.Generator) -> np.ndarray:
    """Kinds [16] int32 of a scene that shows what is asked for, and nothing else."""
    kind = np.full(NUM_CELLS, EMPTY, np.int32)
    if request.second is None:
        kind[rng.permutation(NUM_CELLS)[: request.number]] = request.first
        return kind
    if request.relation is None:
        first, second = rng.permutation(NUM_CELLS)[:2]
    else:
        pairs = np.argwhere(stands()[request.relation])
        first, second = pairs[rng.integers(len(pairs))]
    kind[first], kind[second] = request.first, request.second
    return kind


def pool(num: int, *, seed: int) -> Pool:
    """So many scenes with captions, the same ones for the same arguments."""
    rng = np.random.default_rng(seed)
    tasks = rng.choice(TASKS, num, p=[_SHARES[task] for task in TASKS])
    requests = [sample_request(rng, task) for task in tasks]
    kind = np.stack([arrange(request, rng) for request in requests])
    tokens = tokenise([write(request, rng) for request in requests])
    number: dict[Request, int] = {}
    asked = [number.setdefault(_unordered(request), len(number)) for request in requests]
    return Pool(
        jnp.asarray(kind, jnp.int8), jnp.asarray(tokens, jnp.int8), jnp.asarray(asked, jnp.int32)
    )


def _unordered(request: Request) -> Request:
    if request.second is None or request.relation is not None:
        return request
    first, second = sorted((request.first, request.second))
    return Request(first, 1, second)


class Batch(NamedTuple):
    """Pictures [n] with what is said of them."""

    images: Array  # [n, 48, 48, 3] float32 in [0, 1]
    kind: Array  # [n, 16] int32
    tokens: Array  # [n, 16] int32
    asked: Array  # [n] int32


def batch(key: Array, scenes: Pool, num: int) -> Batch:
    """Some scenes of a pool, drawn."""
    key_index, key_tint, key_offset = jax.random.split(key, 3)
    index = jax.random.randint(key_index, (num,), 0, len(scenes.kind))
    kind = scenes.kind[index].astype(jnp.int32)
    tint = jax.random.randint(key_tint, (num,), 0, NUM_TINTS)
    offset = jax.random.randint(key_offset, (num, NUM_CELLS), 0, len(OFFSETS))
    images = draw(Scene(tint, kind, offset))
    return Batch(images, kind, scenes.tokens[index].astype(jnp.int32), scenes.asked[index])


def pleasantness(images: Array) -> Array:
    """How pleasant pictures [n,48,48,3] of scenes are, [n] in [0, 1]: even and colourful.

    One half for being like its mirror image, one half for colour, up to a tenth of the most that
    there can be.
    """
    mirrored = images[:, :, ::-1]
    ground = jnp.max(images, axis=(1, 2), keepdims=True)
    most = jnp.mean(jnp.abs(images - ground), axis=(1, 2, 3))
    even = 1 - jnp.mean(jnp.abs(images - mirrored), axis=(1, 2, 3)) / (2 * most + 1e-6)
    colour = jnp.mean(jnp.max(images, axis=-1) - jnp.min(images, axis=-1), axis=(1, 2))
    return (jnp.clip(even, 0, 1) + jnp.clip(colour / 0.1, 0, 1)) / 2
