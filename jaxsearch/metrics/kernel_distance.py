"""The kernel distance between two populations; of Inception's features the KID."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array
from jaxsearch.metrics.checks import check_features, check_same_width
from jaxsearch.metrics.spread import Spread, spread_of


def kernel_distance(
    key: Array,
    first: Array | np.ndarray,
    second: Array | np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
) -> Spread:
    """The squared maximum mean discrepancy under the kernel `(x.y / d + 1)^3`, without bias.

    It is estimated on pairs of subsets, drawn without repetition, and may be below zero.

    Args:
        key: of the subsets; consumed.
        first: features [n, d].
        second: features [m, d].
        subsets: how many pairs.
        subset_size: images of each, at most n and m.

    Returns:
        Mean and standard deviation over the pairs; NaN where features are so large that float32
        does not hold their sixth power.

    Raises:
        ValueError: if there are fewer images than a subset has, features that are not finite, or
            not as many on both sides.

    Reference:
        Binkowski et al., *Demystifying MMD GANs*, 2018, section 3.1 and equation 4,
        https://arxiv.org/abs/1801.01401.
    """
    check_count("subsets", subsets)
    check_count("subset_size", subset_size, low=2)
    check_features("first", first)
    check_features("second", second)
    check_same_width(first, second)
    fewest = min(len(first), len(second))
    if fewest < subset_size:
        raise ValueError(
            f"subset_size is {subset_size}, but there are {fewest} images: take as many or fewer"
        )
    one, other = (jnp.asarray(x, jnp.float32) for x in (first, second))
    return spread_of(np.asarray(_of_subsets(key, one, other, subsets, subset_size)))


@functools.partial(jax.jit, static_argnames=("subsets", "size"))
def _of_subsets(key: Array, first: Array, second: Array, subsets: int, size: int) -> Array:
    def drawn(key: Array, features: Array) -> Array:
        return features[jax.random.permutation(key, len(features))[:size]]

    def one(key: Array) -> Array:
        key_first, key_second = jax.random.split(key)
        return _discrepancy(drawn(key_first, first), drawn(key_second, second))

    return jax.lax.map(one, jax.random.split(key, subsets))


def _discrepancy(x: Array, y: Array) -> Array:
    """Of [m, d] and [m, d]; equation 4 of the reference."""
    size = len(x)

    def within(x: Array) -> Array:
        values = jnp.where(jnp.eye(size, dtype=bool), 0.0, _kernel(x, x))
        return jnp.sum(jnp.sum(values, axis=1)) / (size * (size - 1))

    return within(x) + within(y) - 2 * jnp.mean(jnp.mean(_kernel(x, y), axis=1))


def _kernel(x: Array, y: Array) -> Array:
    """`(x.y / d + 1)^3 - 1`: the 1 is of no effect, and what is left has more digits."""
    inner = jnp.dot(x, y.T, precision=jax.lax.Precision.HIGHEST) / x.shape[1]
    return inner * (inner * (inner + 3) + 3)
