"""What features must be before a metric is made of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array


def check_features(name: str, features: Array | np.ndarray, least: int = 1) -> None:
    """Refuses what are no features [n,d] of enough images, all of them finite.

    Raises:
        ValueError: naming the argument and what is wrong with it.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} have the shape {features.shape}: pass [images, features]")
    if features.shape[0] < least:
        raise ValueError(f"{name} are of {features.shape[0]} images: pass {least} or more")
    finite = np.asarray(_largest(features)) < np.inf  # not so for NaN
    if not finite.all():
        raise ValueError(
            f"{name} are not finite for {np.count_nonzero(~finite)} of {len(finite)} images: leave "
            "those images out, and say so"
        )


def check_same_width(first: Array | np.ndarray, second: Array | np.ndarray) -> None:
    """Refuses features of two networks.

    Raises:
        ValueError: if they differ in their number.
    """
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"there are {first.shape[-1]} features on one side and {second.shape[-1]} on the "
            "other: take both from the same network"
        )


def _largest(features: Array | np.ndarray) -> Array | np.ndarray:
    """Of each image [n, d] the largest size of a feature, found where the features are."""
    if isinstance(features, np.ndarray):
        return np.abs(features).max(axis=1)
    return jnp.max(jnp.abs(features), axis=1)
