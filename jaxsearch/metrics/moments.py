"""Mean and covariance of features that come batch by batch, on any device.

Accelerators have float32, and a sum of 50 000 terms loses digits in it. So sums are kept as two
float32 numbers, of which the second has what the first rounds away (Knuth, *The art of computer
programming*, volume 2, section 4.2.2, theorem B), and features are taken relative to a point in
their midst, so that what is squared is their spread and not their size. What is then made of the
sums is computed on the host in float64.

Letters: `n` images, `d` features.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features

_ROWS = 512
"""Images of one batch, whose own sum is plain float32."""


class Statistics(NamedTuple):
    """Of a population, float64."""

    mean: np.ndarray  # [d]
    covariance: np.ndarray  # [d, d], with the divisor n - 1
    number: int | None = None  # n, where it is known

    def check(self, name: str) -> None:
        """Refuses what is no mean with a covariance.

        Raises:
            ValueError: naming whose they are and what is wrong with them.
        """
        size = self.mean.shape[0] if self.mean.ndim == 1 else -1
        if self.covariance.shape != (size, size):
            raise ValueError(
                f"{name} has a mean of the shape {self.mean.shape} and a covariance of the shape "
                f"{self.covariance.shape}: they must be [d] and [d, d]"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ValueError(f"{name} has a mean or a covariance that is not finite")


class Total(NamedTuple):
    """A sum in two parts, float32, the second no more than a rounding of the first."""

    high: Array
    low: Array


class Moments(NamedTuple):
    """Sums over the features seen so far, relative to `shift`."""

    shift: Array  # [d] float32
    number: Array  # int32
    first: Total  # [d]
    second: Total  # [d, d] of products


def moments(shift: Array) -> Moments:
    """Those of no image.

    Args:
        shift: [d] a point amidst the features, such as the mean of a first batch. It changes no
            result but by rounding.
    """
    shift = jnp.asarray(shift, jnp.float32)
    (size,) = shift.shape

    def nothing(*shape: int) -> Total:
        return Total(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    return Moments(shift, jnp.int32(0), nothing(size), nothing(size, size))


def add(seen: Moments, features: Array, counted: Array | None = None) -> Moments:
    """Takes in a batch; to be compiled.

    Args:
        seen: so far.
        features: [n, d] float32, some hundreds of images: their own sum is rounded as any sum of
            float32 is.
        counted: [n] bool, which of them are images and not padding; None counts all.
    """
    centred = features.astype(jnp.float32) - seen.shift[None]
    number = jnp.int32(features.shape[0])
    if counted is not None:
        centred = jnp.where(counted[:, None], centred, 0.0)
        number = jnp.sum(counted, dtype=jnp.int32)
    products = jnp.dot(centred.T, centred, precision=jax.lax.Precision.HIGHEST)
    return Moments(
        seen.shift,
        seen.number + number,
        _plus(seen.first, jnp.sum(centred, axis=0)),
        _plus(seen.second, products),
    )


def _plus(total: Total, term: Array) -> Total:
    coarse = total.high + term
    of_term = coarse - total.high
    lost = (total.high - (coarse - of_term)) + (term - of_term) + total.low
    high = coarse + lost
    return Total(high, lost - (high - coarse))


_add = jax.jit(add, donate_argnums=0)


def statistics(*parts: Moments) -> Statistics:
    """Mean and covariance of what all parts have seen, each on a device of its own, say.

    Raises:
        ValueError: if the parts have shifts of their own; if they have seen fewer than 2 images, or
            features that are not finite.
    """
    shift = np.asarray(parts[0].shift, np.float64)
    if any(not np.array_equal(shift, np.asarray(part.shift, np.float64)) for part in parts):
        raise ValueError("parts of moments must have the same shift: begin them with one")
    count = sum(int(part.number) for part in parts)
    if count < 2:
        raise ValueError(f"a covariance of {count} images: pass 2 or more")

    def whole(totals: list[Total]) -> np.ndarray:
        both = [np.asarray(one, np.float64) for total in totals for one in total]
        return np.sum(both, axis=0)

    offset = whole([part.first for part in parts]) / count
    products = whole([part.second for part in parts])
    products -= count * np.outer(offset, offset)
    if not np.isfinite(products).all():
        raise ValueError("features of an image are not finite: leave that image out, and say so")
    return Statistics(shift + offset, (products + products.T) / (2 * (count - 1)), count)


def statistics_of(features: Array | np.ndarray) -> Statistics:
    """Mean and covariance of features [n, d], which are read in float32.

    Raises:
        ValueError: if there are fewer than 2 images, or some are not finite.
    """
    check_features("features", features, least=2)
    seen = moments(jnp.mean(jnp.asarray(features[:_ROWS], jnp.float32), axis=0))
    for begin in range(0, len(features), _ROWS):
        batch = jnp.asarray(features[begin : begin + _ROWS], jnp.float32)
        # One program: the last batch is filled up.
        rows = min(_ROWS, len(features))
        counted = jnp.arange(rows) < len(batch)
        seen = _add(seen, jnp.pad(batch, ((0, rows - len(batch)), (0, 0))), counted)
    return statistics(seen)
