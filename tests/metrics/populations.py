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
