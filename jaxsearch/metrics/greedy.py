"""How much one more image would lower a population's Frechet distance, without an eigenproblem.

An image with features `f` turns a population of `n` with mean `m` and scatter `S` into one with the
mean `m + v / (n + 1)` and the scatter `S + n / (n + 1) v v^T`, where `v = f - m`: a change of rank
one. With `R` the root of the reference's covariance, `A = R S R`, `y = R v` and `c = n / (n + 1)`,

    tr (A + c y y^T)^(1/2) - tr A^(1/2) = 1/pi integral_0^inf log(1 + c y^T (A + s^2)^(-1) y) ds,

which follows from `x^(1/2) = 1/pi integral_0^inf x / (x + t) t^(-1/2) dt`, the determinant of a
change of rank one, and one integration by parts; it holds for singular `A` too. In the axes of `A`
the inverse is a division, and images that were taken in since those axes were computed enter by the
formula of Sherman and Morrison. So an image costs two products with matrices of `d` columns, and
nothing is approximated but the integral, whose sum over points equal in `log s` errs by 1e-10.

Letters: `n` images taken in, `k` candidates, `d` features, `q` points of the integral, `r` images
taken in since the axes were computed.

Reference: greedy selection by FID as an oracle is Ma et al., *Inference-time scaling for diffusion
models beyond scaling denoising steps*, 2025, section 3, https://arxiv.org/abs/2501.09732.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features, check_same_width
from jaxsearch.metrics.frechet import factor
from jaxsearch.metrics.moments import Statistics

_POINTS = 64
_STEP = 0.4
"""Between points, in `log s`: the sum errs by `exp(-pi^2 / step)`."""
_ABOVE = 1e3
"""The largest point over the root of the largest eigenvalue."""


class Running(NamedTuple):
    """A population that grows image by image, beside a reference; float64 on the host."""

    reference: Statistics
    root: np.ndarray  # [d, d] of the reference's covariance
    number: int
    mean: np.ndarray  # [d]
    scatter: np.ndarray  # [d, d] when the axes were computed
    projection: np.ndarray  # [d, d] features to the axes of `root scatter root`
    values: np.ndarray  # [d] its eigenvalues
    points: np.ndarray  # [q] s
    recent: tuple[Recent, ...]  # taken in since
    most_recent: int
    trace_of_root: float  # of `(root S root)^(1/2)`, S being the scatter now
    trace: float  # of S


class Recent(NamedTuple):
    """An image that was taken in after the axes were computed."""

    offset: np.ndarray  # [d] from the mean before it
    weight: float
    direction: np.ndarray  # [q, d] `(A + s^2)^(-1) y` before it
    factor: np.ndarray  # [q]


class Terms(NamedTuple):
    """What the score of a candidate is made of, as arrays of a program; float32."""

    mean: Array  # [d]
    towards: Array  # [d] the population's mean less the reference's
    projection: Array  # [d, d]
    inverse: Array  # [d, q] 1 / (eigenvalue + s^2)
    weights: Array  # [q] of the points
    directions: Array  # [r, q, d]
    factors: Array  # [r, q]
    number: Array
    constant: Array  # what is the same for all candidates


def running(reference: Statistics, first: Statistics, *, most_recent: int = 32) -> Running:
    """A population of a reference before any image was chosen.

    Args:
        reference: what the population is to come near.
        first: of images that are there already; Ma et al. begin with 1024 plain samples.
        most_recent: images that are taken in before axes are computed again, by one eigenproblem.

    Raises:
        ValueError: if the number of first images is not known, or it is below 2; if the two are of
            different networks, or no statistics.
    """
    check_count("most_recent", most_recent)
    reference.check("the reference")
    first.check("the first population")
    check_same_width(reference.mean, first.mean)
    if first.number is None or first.number < 2:
        raise ValueError(
            f"the first population has {first.number} images: a population that grows needs their "
            "number, 2 or more"
        )
    half = factor(reference)
    scatter = first.covariance * (first.number - 1)
    # The factor's columns are axes times their roots.
    root = (half / np.linalg.norm(half, axis=0)) @ half.T
    return _with_axes(reference, root, first.number, first.mean, scatter, most_recent)


def _with_axes(
    reference: Statistics,
    root: np.ndarray,
    number: int,
    mean: np.ndarray,
    scatter: np.ndarray,
    most_recent: int,
) -> Running:
    values, axes = np.linalg.eigh(root @ scatter @ root)
    values = np.where(values > len(values) * np.finfo(np.float64).eps * values[-1], values, 0.0)
    largest = math.log(_ABOVE * math.sqrt(max(float(values[-1]), np.finfo(np.float64).tiny)))
    points = np.exp(largest - _STEP * np.arange(_POINTS)[::-1])
    return Running(
        reference, root, number, mean, scatter, axes.T @ root, values, points, (), most_recent,
        float(np.sum(np.sqrt(values))), float(np.trace(scatter)),
    )  # fmt: skip


def _weights(points: np.ndarray) -> np.ndarray:
    """Of the points [q]: `s ds / s` by equal steps, over 1/pi.

    Below the first point the integrand is flat and above the last it falls as `s^-2`; there the sum
    is a geometric series.
    """
    steps = np.full(len(points), _STEP)
    steps[[0, -1]] = _STEP / (1 - math.exp(-_STEP))
    return points * steps / np.pi


def take_in(population: Running, features: np.ndarray) -> Running:
    """The population with more images, features [k, d], one after another.

    Raises:
        ValueError: if they are not finite, or of another network.
    """
    check_features("features", features)
    check_same_width(population.mean, features)
    for one in np.asarray(features, np.float64):
        population = _with_one(population, one)
    return population


def _with_one(population: Running, image: np.ndarray) -> Running:
    number = population.number
    offset, weight = image - population.mean, number / (number + 1)
    y = population.projection @ offset
    # [q, d]: what the inverse makes of y, corrected for each image since the axes were computed.
    direction = y / (population.values + population.points[:, None] ** 2)
    for past in population.recent:
        direction -= past.direction * (past.factor * (past.direction @ y))[:, None]
    inner = np.maximum(direction @ y, 0)
    gained = float(_weights(population.points) @ np.log1p(weight * inner))
    new = Recent(offset, weight, direction, weight / (1 + weight * inner))
    after = population._replace(
        number=number + 1,
        mean=population.mean + offset / (number + 1),
        recent=(*population.recent, new),
        trace_of_root=population.trace_of_root + gained,
        trace=population.trace + weight * float(offset @ offset),
    )
    if len(after.recent) <= after.most_recent:
        return after
    return _with_axes(
        after.reference, after.root, after.number, after.mean, _scatter(after), after.most_recent
    )


def _scatter(population: Running) -> np.ndarray:
    if not population.recent:
        return population.scatter
    rows = np.stack([math.sqrt(past.weight) * past.offset for past in population.recent])
    return population.scatter + rows.T @ rows


def statistics_of_running(population: Running) -> Statistics:
    """Mean and covariance of all that was taken in."""
    covariance = _scatter(population) / (population.number - 1)
    return Statistics(population.mean, covariance, population.number)


def running_distance(population: Running) -> float:
    """The Frechet distance to the reference, from what is known: no eigenproblem."""
    mean = float(np.sum((population.mean - population.reference.mean) ** 2))
    degrees = population.number - 1
    cross = population.trace_of_root / math.sqrt(degrees)
    return mean + np.trace(population.reference.covariance) + population.trace / degrees - 2 * cross


def terms(population: Running) -> Terms:
    """What a program needs to score candidates by; of the same shapes for a population as it grows.

    `gain` takes them.
    """
    size, number = len(population.mean), population.number
    shape = (population.most_recent, _POINTS)
    directions, factors = np.zeros((*shape, size), np.float32), np.zeros(shape, np.float32)
    for index, past in enumerate(population.recent):
        directions[index], factors[index] = past.direction, past.factor
    # (n + 1) times what changes by the divisor alone, which is then n and not n - 1.
    shrink = -math.expm1(0.5 * math.log1p(-1 / number)) / math.sqrt(number - 1)
    constant = (number + 1) * (
        -population.trace / (number * (number - 1)) + 2 * shrink * population.trace_of_root
    )
    inverse = 1 / (population.values[:, None] + population.points**2)
    return Terms(
        *(
            jnp.asarray(np.asarray(one, np.float32))
            for one in (
                population.mean,
                population.mean - population.reference.mean,
                population.projection,
                inverse,
                _weights(population.points),
                directions,
                factors,
                number,
                constant,
            )
        )
    )


def gain(known: Terms, features: Array) -> Array:
    """By how much each candidate would lower the Frechet distance, times `n + 1`; [k] float32.

    The factor makes it a number of the distance's size: one more image changes a distance by about
    one part of `n`, too little for float32. To be compiled.

    Args:
        known: of the population.
        features: [k, d] of the candidates, each for itself.
    """
    highest = jax.lax.Precision.HIGHEST
    offset = features.astype(jnp.float32) - known.mean[None]
    y = jnp.dot(offset, known.projection.T, precision=highest)
    inner = jnp.dot(y * y, known.inverse, precision=highest)
    past = jnp.einsum("kd,rqd->krq", y, known.directions, precision=highest)
    inner = jnp.maximum(inner - jnp.sum(known.factors[None] * past * past, axis=1), 0.0)
    number = known.number
    weight = number / (number + 1)
    root = jnp.sum(known.weights[None] * jnp.log1p(weight * inner), axis=1)
    square = jnp.sum(offset * offset, axis=1)
    mean = 2 * jnp.sum(offset * known.towards[None], axis=1) + square / (number + 1)
    # The scatter's divisor is then n: (n + 1) * weight / n = 1.
    change = mean + square - 2 * (number + 1) / jnp.sqrt(number) * root
    return -(change + known.constant)
