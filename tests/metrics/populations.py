"""Populations whose figures are known."""

from __future__ import annotations

import numpy as np


def gaussian(seed: int, num: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Points [num, d] float32 of a Gaussian with covariance `root root^T`, some far from zero."""
    noise = np.random.default_rng(seed).normal(size=(num, root.shape[1]))
    return (mean + noise @ root.T).astype(np.float32)


def pair(seed: int = 0, num: int = 700, size: int = 12, other: int = 400):
    """Two populations of features, alike but not equal, all correlated."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size)) / np.sqrt(size)
    first = gaussian(seed + 1, num, 3 + rng.normal(size=size), root)
    second = gaussian(seed + 2, other, 3 + rng.normal(size=size), 1.3 * root)
    return first, second


def without_covariances(first: np.ndarray, second: np.ndarray) -> float:
    """The Frechet distance by the singular values of `X1 X2^T`, in float64.

    With `Ci = Xi^T Xi` the trace of `(C1 C2)^(1/2)` is their sum, and nothing has to have an
    inverse or a root.
    """
    one, other = (x.astype(np.float64) for x in (first, second))
    x1, x2 = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (one, other))
    cross = np.linalg.svd(x1 @ x2.T, compute_uv=False).sum()
    mean = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return float(mean + (x1**2).sum() + (x2**2).sum() - 2 * cross)
