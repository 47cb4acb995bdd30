"""How the scores of several guides become one, inside the search."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.types import TOTAL, Aggregate, Array


def total() -> Aggregate:
    """The sum of the guides."""
    return TOTAL


def weighted(*, weights: Sequence[float] | None = None) -> Aggregate:
    """The sum of the guides times their weights.

    Args:
        weights: [V] one number per guide, in their order; null: all 1. A negative one turns a guide
            round.

    Raises:
        ValueError: if a weight is not finite; in a search, if there are not as many as guides.
    """
    if weights is None:
        return TOTAL
    for weight in weights:
        check_range("weights", weight)
    return _weighted(tuple(float(weight) for weight in weights))


@functools.cache
def _weighted(weights: tuple[float, ...]) -> Aggregate:
    def combine(scores: Array) -> Array:
        if scores.shape[-1] != len(weights):
            raise ValueError(
                f"there are {len(weights)} weights for {scores.shape[-1]} guides: give one for each"
            )
        return scores @ jnp.asarray(np.asarray(weights, np.float32))

    return Aggregate("weighted", combine)


@functools.cache
def worst() -> Aggregate:
    """The lowest of the guides, so that none can be bought with another: scale them alike."""
    return Aggregate("worst", lambda scores: jnp.min(scores, axis=-1))


@functools.cache
def mean_rank() -> Aggregate:
    """The mean over the guides of a candidate's rank among those it is compared with.

    Ma et al. 2025, section 5.1, "verifier ensemble": unweighted, and blind to the guides' scales.
    Here a rank is the share of the others that a candidate beats, ties by half, so more is better
    and the mean lies in [0, 1].
    """

    def combine(scores: Array) -> Array:
        above, below = scores[:, None], scores[None]
        beaten = (above > below).astype(jnp.float32) + 0.5 * (above == below).astype(jnp.float32)
        others = jnp.sum(beaten, axis=1) - 0.5  # every candidate ties with itself
        return jnp.mean(others / max(scores.shape[0] - 1, 1), axis=-1)

    return Aggregate("mean_rank", combine, relative=True)


def compared(aggregate: Aggregate, scores: Array) -> Array:
    """The scores [K] of candidates that are compared with each other, of [K, V] by guide.

    One that a guide has failed, or whose aggregate is no finite number, scores -inf.
    """
    score = aggregate.combine(scores)
    valid = jnp.isfinite(score) & jnp.all(jnp.isfinite(scores), axis=-1)
    return jnp.where(valid, score, -jnp.inf)


AGGREGATES = {
    "mean_rank": mean_rank,
    "total": total,
    "weighted": weighted,
    "worst": worst,
}
"""Aggregates by name: `(*, settings) -> Aggregate`."""
