"""Precision and recall of a population: how much of it looks real, how much of what is real it has.

Letters: `n` images, `d` features, `b` images of a block, `r` of them a device's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features, check_same_width
from jaxsearch.metrics.distances import blocks, squared_distances


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float  # the share of made images that lie among real ones
    recall: float  # the share of real images that lie among made ones


def precision_recall(
    real: Array | np.ndarray,
    made: Array | np.ndarray,
    *,
    neighbours: int = 3,
    mesh: Mesh | None = None,
) -> PrecisionRecall:
    """Shares of either population that lie in the other's manifold.

    A population's manifold is the union of balls around its images, each as large as its distance
    to its `neighbours`-th nearest of the same population. Distances are taken a block at a time, in
    float32; ADM's evaluator takes some of them in float16.

    Args:
        real: features [n, d].
        made: features [m, d].
        neighbours: 1 or more; 3 in the papers.
        mesh: devices, each of which has all features and takes the distances of its part of the
            images; None is one.

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
    places = tuple(np.arange(_whole(len(x), mesh), dtype=np.int32) for x in (real, made))
    both = tuple(np.asarray(x, np.float32) for x in (real, made))
    if mesh is not None:
        places = jax.device_put(places, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
        both = jax.device_put(both, NamedSharding(mesh, PartitionSpec()))
    of_made, of_real = _program(neighbours, mesh)(places, both)
    return PrecisionRecall(int(of_made) / len(made), int(of_real) / len(real))


def _whole(num: int, mesh: Mesh | None) -> int:
    """Images, filled up so that all devices have as many."""
    devices = 1 if mesh is None else mesh.size
    return -(-num // devices) * devices


@functools.cache
def _program(neighbours: int, mesh: Mesh | None) -> Callable:
    """`(places of a device's own [r], features [n, d])`, each of real and made -> two numbers."""

    def all_of(own: Array) -> Array:
        return own if mesh is None else jax.lax.all_gather(own, mesh.axis_names, tiled=True)

    def number_of(inside: Array) -> Array:
        own = jnp.sum(inside, dtype=jnp.int32)
        return own if mesh is None else jax.lax.psum(own, mesh.axis_names)

    def inside(places: tuple[Array, Array], both: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = jnp.mean(both[0], axis=0, keepdims=True)
        real, made = (points - middle for points in both)
        reach = [
            all_of(_radii(points, neighbours, own))[: len(points)]
            for points, own in zip((real, made), places, strict=True)
        ]
        precise = _among(made, real, reach[0], places[1])
        recalled = _among(real, made, reach[1], places[0])
        return number_of(precise), number_of(recalled)

    if mesh is None:
        return jax.jit(inside)
    own, everywhere = PartitionSpec(mesh.axis_names), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            inside, mesh=mesh, in_specs=((own, own), (everywhere, everywhere)),
            out_specs=everywhere, check_vma=False,
        )
    )  # fmt: skip


def _rows(points: Array, places: Array) -> tuple[Array, Array]:
    """Points [n, d] of places [r], in blocks [blocks, b, d], with those [blocks, b]; from n on they
    are padding.
    """
    chunks, order = blocks(points[jnp.minimum(places, len(points) - 1)])
    spare = chunks.shape[0] * chunks.shape[1] - len(places)
    padded = jnp.pad(places, (0, spare), constant_values=len(points))
    return chunks, padded.reshape(order.shape)


def _radii(points: Array, neighbours: int, places: Array) -> Array:
    """Of those of the points [n, d] at places [r], the squared distance to the so-many-th nearest
    other point, [r].
    """
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

    return jax.lax.map(of_rows, _rows(points, places)).reshape(-1)[: len(places)]


def _among(points: Array, centres: Array, radii: Array, places: Array) -> Array:
    """Whether those of the points [n, d] at places [r] lie in a ball around one of the centres
    [m, d]; bool [r], False from n on.
    """
    chunks = blocks(centres)
    # No point lies in a ball of padding.
    reach = jnp.pad(radii, (0, chunks[1].size - len(radii)), constant_values=-1.0)
    reach = reach.reshape(chunks[1].shape)

    def of_rows(rows: Array) -> Array:
        def further(inside: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
            found = squared_distances(rows, columns[0]) <= columns[1][None]
            return inside | jnp.any(found, axis=1), None

        nowhere = jnp.zeros(len(rows), bool)
        return jax.lax.scan(further, nowhere, (chunks[0], reach))[0]

    inside = jax.lax.map(of_rows, _rows(points, places)[0]).reshape(-1)[: len(places)]
    return inside & (places < len(points))
