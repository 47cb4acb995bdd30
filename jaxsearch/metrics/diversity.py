"""How much samples of one prompt differ: a search that always finds the same has lost them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features
from jaxsearch.metrics.distances import blocks, squared_distances


def prompt_diversity(features: Array | np.ndarray, prompts: np.ndarray) -> float:
    """The mean distance between two samples of a prompt, over all prompts that have two or more.

    Distances are Euclidean; features of length 1 make them chords, which grow with the angle alone.

    Args:
        features: [n, d].
        prompts: [n] what each image was asked for; equal entries are one prompt.

    Returns:
        The mean over prompts, each of which counts once. NaN if no prompt has two samples.

    Raises:
        ValueError: if there are not as many prompts as images, or features that are not finite.
    """
    check_features("features", features)
    if np.shape(prompts) != (len(features),):
        raise ValueError(
            f"prompts have the shape {np.shape(prompts)}, but there are {len(features)} images: "
            "pass one for each"
        )
    _, prompt, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    order = np.argsort(prompt, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    means: list[float] = []
    # Groups are filled up to powers of two, so that few programs are made.
    by_size: dict[int, list[np.ndarray]] = {}
    for group in groups:
        if len(group) > 1:
            by_size.setdefault(1 << (len(group) - 1).bit_length(), []).append(group)
    for size, alike in by_size.items():
        for group in alike:
            rows = jnp.asarray(features[np.resize(group, size)], jnp.float32)
            means.append(float(_mean_distance(rows, jnp.int32(len(group)))))
    return float(np.mean(means)) if means else float("nan")


@jax.jit
def _mean_distance(points: Array, num: Array) -> Array:
    """Over all pairs of the first `num` points [n, d]."""
    counted = (jnp.arange(len(points)) < num)[:, None]
    number = num.astype(jnp.float32)
    middle = jnp.sum(jnp.where(counted, points, 0.0), axis=0) / number
    chunks = blocks(points - middle[None])

    def of_rows(rows: tuple[Array, Array]) -> Array:
        def further(total: Array, columns: tuple[Array, Array]) -> tuple[Array, None]:
            found = jnp.sqrt(squared_distances(rows[0], columns[0]))
            # Each pair is met once here and once the other way round.
            apart = (rows[1][:, None] < num) & (columns[1][None] < num)
            apart &= rows[1][:, None] != columns[1][None]
            return total + jnp.sum(jnp.where(apart, found, 0.0), axis=1), None

        return jax.lax.scan(further, jnp.zeros(len(rows[0])), chunks)[0]

    total = jnp.sum(jax.lax.map(of_rows, chunks))
    return total / (number * (number - 1))
