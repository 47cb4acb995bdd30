"""What metrics need of a population: its images go by in batches, and need not be there at once.

Letters: `n` images, `b` of one batch, `d` features, `c` classes, `s` spatial features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array, PyTree
from jaxsearch.metrics.extractor import Extracted, Extractor
from jaxsearch.metrics.moments import Moments, Statistics, add, moments, statistics


class Population(NamedTuple):
    """What is known of images; what their network or their source does not give is None."""

    number: int | None = None
    statistics: Statistics | None = None
    spatial: Statistics | None = None
    features: np.ndarray | None = None  # [n, d] float32
    logits: np.ndarray | None = None  # [n, c] float32


def population(
    extractor: Extractor,
    images: Iterable[np.ndarray],
    *,
    batch: int = 64,
    keep: bool = True,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> Population:
    """Sends images through a network and keeps what metrics are made of.

    Means and covariances are summed on the devices, each of which takes its part of a batch.

    Args:
        extractor: the network.
        images: [b,h,w,c] each, any number of them in each, uint8 or float32 in [0, 1], all of one
            size.
        batch: images at once over all devices.
        keep: whether the features and logits of single images are kept too, on the host: precision,
            recall, kernel distance, diversity and Inception score need them; the Frechet distance
            does not.
        mesh: devices; None is one.
        progress: told after each batch how many images have gone by.

    Raises:
        ValueError: if there are fewer than 2 images, or they differ in size; if the network does
            not take them, or its features are not finite.
    """
    check_count("batch", batch)
    devices = 1 if mesh is None else mesh.size
    rows = -(-batch // devices) * devices
    params = extractor.params if mesh is None else _placed(extractor.params, mesh, PartitionSpec())
    extract, accumulate = _programs(extractor.apply, mesh)
    sums: dict[str, Moments] = {}
    kept: dict[str, list[np.ndarray]] = {}
    number = 0
    for part, counted in _filled(images, rows):
        whole, where = jnp.asarray(part), jnp.asarray(counted)
        if mesh is not None:
            whole, where = _placed((whole, where), mesh, PartitionSpec(mesh.axis_names))
        found = extract(params, whole)
        summed = {"features": found.features}
        if found.spatial is not None:
            summed["spatial"] = found.spatial
        sums = sums or {name: _begun(one, counted, devices) for name, one in summed.items()}
        sums = accumulate(sums, summed, where)
        for name in ("features", "logits") if keep else ():
            values = getattr(found, name)
            if values is not None:
                kept.setdefault(name, []).append(np.asarray(values)[counted])
        number += int(counted.sum())
        if progress is not None:
            progress(number)
    if number < 2:
        raise ValueError(f"there are {number} images: pass 2 or more")
    of = {name: statistics(*_parts(one)) for name, one in sums.items()}
    single = {name: np.concatenate(values) for name, values in kept.items()}
    return Population(
        number, of["features"], of.get("spatial"), single.get("features"), single.get("logits")
    )


def _filled(images: Iterable[np.ndarray], rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches [rows,h,w,c] and which of their rows are images; the last one is filled up."""
    waiting: list[np.ndarray] = []
    size: tuple[int, ...] | None = None
    for some in images:
        if some.ndim != 4:
            raise ValueError(f"images have the shape {some.shape}: pass [n,h,w,c]")
        size = size or some.shape[1:]
        if some.shape[1:] != size:
            raise ValueError(
                f"images of the sizes {size} and {some.shape[1:]} [h,w,c]: make them of one size"
            )
        _check_levels(some, waiting)
        waiting.append(some)
        there = sum(len(one) for one in waiting)
        if there >= rows:
            joined = np.concatenate(waiting)
            for begin in range(0, there - rows + 1, rows):
                yield joined[begin : begin + rows], np.ones(rows, bool)
            waiting = [joined[there - there % rows :]]
    rest = np.concatenate(waiting) if waiting else np.zeros((0, 1, 1, 1), np.uint8)
    if len(rest):
        yield rest[np.minimum(np.arange(rows), len(rest) - 1)], np.arange(rows) < len(rest)


def _check_levels(some: np.ndarray, before: Sequence[np.ndarray]) -> None:
    """Refuses images of which nobody knows what is white."""
    if some.dtype != np.uint8 and some.dtype.kind != "f":
        raise ValueError(f"images are of {some.dtype}: pass uint8, or floats in [0, 1]")
    if before and before[0].dtype != some.dtype:
        raise ValueError(f"images are of {before[0].dtype} and of {some.dtype}: pass one of them")
    if some.dtype.kind == "f" and some.size and np.max(np.abs(some)) > _WHITE:
        raise ValueError(
            f"floats of images go to {np.max(np.abs(some)):g}: pass those in [0, 1], or levels as "
            "uint8"
        )


_WHITE = 1.5
"""What no image in [0, 1] exceeds, be it rounded as it may."""


def _as_floats(images: Array) -> Array:
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


@functools.cache
def _programs(
    apply: Callable[[PyTree, Array], Extracted], mesh: Mesh | None
) -> tuple[Callable, Callable]:
    """`(params, images) -> Extracted` and `(sums, features by name, counted) -> sums`.

    Sums have an axis of devices before all others.
    """

    def extract(params: PyTree, images: Array) -> Extracted:
        return apply(params, _as_floats(images))

    def accumulate(
        sums: dict[str, Moments], features: dict[str, Array], counted: Array
    ) -> dict[str, Moments]:
        own = jax.tree.map(lambda leaf: leaf[0], sums)
        after = {name: add(one, features[name], counted) for name, one in own.items()}
        return jax.tree.map(lambda leaf: leaf[None], after)

    runs: list[Callable] = [extract, accumulate]
    if mesh is not None:
        everywhere, by_row = PartitionSpec(), PartitionSpec(mesh.axis_names)
        runs = [
            jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=by_row, check_vma=False)
            for run, specs in zip(runs, ((everywhere, by_row), (by_row,) * 3), strict=True)
        ]
    return jax.jit(runs[0]), jax.jit(runs[1], donate_argnums=0)


def _begun(features: Array, counted: np.ndarray, devices: int) -> Moments:
    """Sums over nothing for each device, [devices, ...], relative to the mean of a first batch."""
    # One that is not finite would be everybody's; the sums say it of the images themselves.
    empty = moments(jnp.asarray(np.nan_to_num(np.asarray(features)[counted].mean(axis=0))))
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], devices, axis=0), empty)


def _parts(sums: Moments) -> list[Moments]:
    host = jax.device_get(sums)
    leaves, structure = jax.tree.flatten(host)
    return [jax.tree.unflatten(structure, one) for one in zip(*leaves, strict=True)]


def _placed(tree: PyTree, mesh: Mesh, spec: PartitionSpec) -> PyTree:
    return jax.device_put(tree, NamedSharding(mesh, spec))
