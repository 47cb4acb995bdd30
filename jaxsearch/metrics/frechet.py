"""The Frechet distance between two populations, taken for Gaussians.

Of Inception's features it is the Frechet inception distance (FID): Heusel et al., *GANs trained by
a two time-scale update rule converge to a local Nash equilibrium*, 2017, equation 6,
https://arxiv.org/abs/1706.08500. Of CLIP's it is CLIP-FID: Kynkaanniemi et al., *The role of
ImageNet classes in Frechet inception distance*, 2023, https://arxiv.org/abs/2203.06026.
"""

from __future__ import annotations

import numpy as np

from jaxsearch.metrics.checks import check_same_width
from jaxsearch.metrics.moments import Statistics

_NEGATIVE = 1e-3
"""How far below zero an eigenvalue may be, over the largest, before it is no rounding."""


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """`|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`, on the host in float64.

    The trace of the root is the sum of the singular values of `F1^T F2`, where `Ci = Fi Fi^T`: real
    by construction, also where covariances have no inverse. A root of the product itself, as
    pytorch-fid and ADM's evaluator take it, may fail there, and 1e-6 is then added to diagonals.

    Args:
        first: of one population.
        second: of the other.

    Returns:
        The distance, 0 or more. Of few images it is too large, and the more so the fewer they are
        (Binkowski et al. 2018, section 4.1): compare it for equal numbers of images.

    Raises:
        ValueError: if they are of different networks, or no mean and covariance.
    """
    first.check("the first population")
    second.check("the second population")
    check_same_width(first.mean, second.mean)
    one, other = factor(first), factor(second)
    cross = float(np.sum(np.linalg.svd(one.T @ other, compute_uv=False)))
    # Of the factors, as what is subtracted is: traces of what was cut off would not cancel.
    spread = float(np.sum(one**2) + np.sum(other**2))
    distance = float(np.sum((first.mean - second.mean) ** 2)) + spread - 2 * cross
    return max(distance, 0.0)


def factor(population: Statistics) -> np.ndarray:
    """`F` [d, r] with `F F^T` = the covariance [d, d], float64.

    Eigenvalues that are zero but for rounding are left out, and of `n` images all but `n - 1`: the
    root of a rounding is no small number any more.

    Raises:
        ValueError: if it is no covariance: not symmetric, or with eigenvalues far below zero.
    """
    covariance, count = np.asarray(population.covariance, np.float64), population.number
    size = np.abs(covariance).max(initial=0.0)
    if np.abs(covariance - covariance.T).max(initial=0.0) > _NEGATIVE * size:
        raise ValueError("a covariance is not symmetric: it must be [d, d] of features")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    largest = max(values[-1], 0.0)
    if values[0] < -_NEGATIVE * largest:
        raise ValueError(
            f"a covariance has the eigenvalue {values[0]:g}, and the largest is {largest:g}: it "
            "must have none below zero"
        )
    kept = values > len(values) * np.finfo(np.float64).eps * largest
    if count is not None and count <= len(values):
        kept[: len(values) - count + 1] = False
    return vectors[:, kept] * np.sqrt(values[kept])
