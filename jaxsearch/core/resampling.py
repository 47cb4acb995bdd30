"""Resampling of weighted particles: `(key, log_weights [K]) -> ancestors [K]`.

Every scheme is unbiased: particle `k` gets `K * w[k]` descendants on average, `w` the normalised
weights. They differ in how much the number varies (Douc, Cappe & Moulines 2005, *Comparison of
resampling schemes for particle filtering*). Weights need not be normalised. Where all are zero, no
particle is better than another, and all weigh the same.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxsearch.core.random import uniform
from jaxsearch.core.types import Array


def normalised(log_weights: Array) -> tuple[Array, Array]:
    """Log weights [K] that sum to one, and the logarithm [] of what they summed to.

    Where all are zero they become equal, and the sum is `-inf`.
    """
    largest = jnp.max(log_weights)
    # The largest goes first: beside a huge one the logarithm of the sum would be lost to rounding.
    below = log_weights - jnp.where(largest > -jnp.inf, largest, 0.0)
    total = jax.nn.logsumexp(below)
    equal = jnp.full_like(log_weights, -math.log(log_weights.shape[0]))
    return jnp.where(largest > -jnp.inf, below - total, equal), largest + total


def effective_sample_size(log_weights: Array) -> Array:
    """How many equally weighted particles are worth as much: `(sum w)^2 / sum w^2`, in [1, K]."""
    weights = jnp.exp(normalised(log_weights)[0])
    return 1.0 / jnp.sum(weights**2)


def pick(weights: Array, positions: Array) -> Array:
    """The particles [n] in whose share of all weight the positions [n], of it 0 to 1, fall."""
    cumulative = jnp.cumsum(weights)
    # The sum is not 1 to the last bit, and a position times it may round up to it. On the right
    # side of ties, a particle of no weight has an empty share.
    found = jnp.searchsorted(cumulative, positions * cumulative[-1], side="right")
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(found, last).astype(jnp.int32)


def multinomial(key: Array, log_weights: Array) -> Array:
    """Every descendant draws its ancestor independently."""
    weights = jnp.exp(normalised(log_weights)[0])
    return pick(weights, uniform(key, weights.size))


def stratified(key: Array, log_weights: Array) -> Array:
    """One independent draw in each of `K` equal strata (Kitagawa 1996)."""
    weights = jnp.exp(normalised(log_weights)[0])
    size = weights.shape[0]
    return pick(weights, (jnp.arange(size, dtype=weights.dtype) + uniform(key, size)) / size)


def systematic(key: Array, log_weights: Array) -> Array:
    """One draw for all strata: counts are `K * w` rounded down or up (Carpenter et al. 1999)."""
    weights = jnp.exp(normalised(log_weights)[0])
    size = weights.shape[0]
    return pick(weights, (jnp.arange(size, dtype=weights.dtype) + uniform(key, 1)) / size)


def residual(key: Array, log_weights: Array) -> Array:
    """`K * w` rounded down for sure, the rest multinomial (Liu & Chen 1998)."""
    weights = jnp.exp(normalised(log_weights)[0])
    size = weights.shape[0]
    expected = size * weights
    # What rounding has put just below a whole number is that number: otherwise equal weights
    # would lose all their certain copies.
    nearest = jnp.round(expected)
    whole = jnp.abs(expected - nearest) <= 4 * size * jnp.finfo(weights.dtype).eps
    copies = jnp.where(whole, nearest, jnp.floor(expected))
    ends = jnp.cumsum(copies.astype(jnp.int32))
    places = jnp.arange(size)
    certain = jnp.searchsorted(ends, places, side="right")
    drawn = pick(jnp.maximum(expected - copies, 0.0), uniform(key, size))
    return jnp.where(places < ends[-1], certain, drawn).astype(jnp.int32)


RESAMPLING = {
    "multinomial": multinomial,
    "residual": residual,
    "stratified": stratified,
    "systematic": systematic,
}
"""Schemes by name."""
