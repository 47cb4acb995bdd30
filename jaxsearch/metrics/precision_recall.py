"""Precision and recall of a population: how much of it looks real, how much of what is real it has.

Letters: `n` images, `d` features, `b` images of a block.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features, check_same_width
from jaxsearch.metrics.distances import blocks, squared_distances


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float  # the share of made images that lie among real ones
    recall: float  # the share of real images that lie among made ones


def precision_recall(
    real: Array | np.ndarray, made: Array | np.ndarray, *, neighbours: int = 3
) -> PrecisionRecall:
    """Shares of either population that lie in the other's manifold.

    A population's manifold is the union of balls around its images, each as large as its distance
    to its `neighbours`-th nearest of the same population. Distances are taken a block at a time, in
    float32; ADM's evaluator takes some of them in float16.

    Args:
        real: features [n, d].
        made: features [m, d].
        neighbours: 1 or more; 3 in the papers.

    Raises:
        ValueError: if there are no more images than neighbours, features that are not finite, or
            not as many on both sides.

    Reference:
        Kynkaanniemi et al., *Improved precision and recall metric for assessing generative models*,
        2019, equations 1 and 2, https://arxiv.org/abs/1904.06991.
    """
    check_count("neighbours", neighbours)
    check_features("real", real, least=neighbours + 1)
    check_features("made", made, least=neighbours + 1)
    check_same_width(real, made)
    one, other = (jnp.asarray(x, jnp.float32) for x in (real, made))
    of_made, of_real = _inside(one, other, neighbours)
    return PrecisionRecall(int(of_made) / len(made), int(of_real) / len(real))


@functools.partial(jax.jit, static_argnames="neighbours")
def _inside(real: Array, made: Array, neighbours: int) -> tuple[Array, Array]:
    middle = jnp.mean(real, axis=0, keepdims=True)
    real, made = real - middle, made - middle
    precise = _among(made, real, _radii(real, neighbours))
    recalled = _among(real, made, _radii(made, neighbours))
    return jnp.sum(precise, dtype=jnp.int32), jnp.sum(recalled, dtype=jnp.int32)


def _radii(points: Array, neighbours: int) -> Array:
    """Of each point [n, d] the squared distance to its so-many-th nearest other, [n]."""
    num = len(points)
    chunks = blocks(points)

    def of_rows(rows: tuple[Array, Array]) -> Array:
        def nearer(least: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
            found = squared_distances(rows[0], columns[0])
            itself = rows[1][:, None] == columns[1][None]
            found = jnp.where(itself | (columns[1] >= num)[None], jnp.inf, found)
            both = jnp.concatenate([least, found], axis=1)
            return -jax.lax.top_k(-both, neighbours)[0], None

        nothing = jnp.full((len(rows[0]), neighbours), jnp.inf)
        return jax.lax.scan(nearer, nothing, chunks)[0][:, -1]

    return jax.lax.map(of_rows, chunks).reshape(-1)[:num]


def _among(points: Array, centres: Array, radii: Array) -> Array:
    """Whether each point [n, d] lies in a ball around one of the centres [m, d]; bool [n]."""
    num, chunks = len(points), blocks(centres)
    # No point lies in a ball of padding.
    reach = jnp.pad(radii, (0, chunks[1].size - len(radii)), constant_values=-1.0)
    reach = reach.reshape(chunks[1].shape)

    def of_rows(rows: Array) -> Array:
        def further(inside: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
            found = squared_distances(rows, columns[0]) <= columns[1][None]
            return inside | jnp.any(found, axis=1), None

        nowhere = jnp.zeros(len(rows), bool)
        return jax.lax.scan(further, nowhere, (chunks[0], reach))[0]

    return jax.lax.map(of_rows, blocks(points)[0]).reshape(-1)[:num]
