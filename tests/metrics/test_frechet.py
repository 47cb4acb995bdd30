"""The Frechet distance against Gaussians in closed form and against the root of the product."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from jaxsearch.metrics import Statistics, frechet_distance, statistics_of
from tests.metrics.populations import gaussian, pair, without_covariances


def by_root_of_product(first: np.ndarray, second: np.ndarray) -> float:
    """Equation 6 of Heusel et al. 2017 as it stands, in float64."""
    one, other = (x.astype(np.float64) for x in (first, second))
    c1, c2 = np.cov(one.T), np.cov(other.T)
    root = np.trace(sqrtm(c1 @ c2)).real
    return float(((one.mean(0) - other.mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * root)


def test_against_the_root_of_the_product():
    """Kills: a root without its factor 2, covariances multiplied the wrong way round."""
    first, second = pair()
    found = frechet_distance(statistics_of(first), statistics_of(second))
    np.testing.assert_allclose(found, by_root_of_product(first, second), rtol=2e-6)


def test_gaussians_that_commute():
    """`|m|^2 + sum (s1 - s2)^2` where both covariances have the same axes."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    one, other = np.array([0, 0, 1.0, 2, 3, 4]), np.array([0, 2.0, 0, 2, 1, 5])
    mean = rng.normal(size=6)
    first = Statistics(np.zeros(6), (axes * one**2) @ axes.T)
    second = Statistics(mean, (axes * other**2) @ axes.T)
    wanted = mean @ mean + np.sum((one - other) ** 2)
    np.testing.assert_allclose(frechet_distance(first, second), wanted, rtol=1e-12)


def test_gaussians_of_two_dimensions():
    """Of 2x2 matrices `tr M^(1/2) = sqrt(tr M + 2 sqrt(det M))`, though they do not commute."""
    c1, c2 = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 4.0]])
    product = c1 @ c2
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = 5 + np.trace(c1) + np.trace(c2) - 2 * root
    found = frechet_distance(Statistics(np.zeros(2), c1), Statistics(np.array([1.0, 2.0]), c2))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_samples_of_known_gaussians():
    """100 000 samples of each are as far apart as the Gaussians, but for sampling."""
    root = np.linalg.cholesky(np.array([[2.0, 1.0], [1.0, 3.0]]))
    first = gaussian(0, 100_000, np.zeros(2), root)
    second = gaussian(1, 100_000, np.array([1.0, 0.0]), 2 * root)
    found = frechet_distance(statistics_of(first), statistics_of(second))
    np.testing.assert_allclose(found, 1 + 5, rtol=0.03)  # (2 - 1)^2 tr C


def test_fewer_images_than_features():
    """Covariances without an inverse: a population has no distance to itself.

    Kills: the roots of eigenvalues that are zero but for float32's rounding.
    """
    features, other = pair(num=9, size=40, other=15)
    own = statistics_of(features)
    assert frechet_distance(own, own) < 1e-11 * np.trace(own.covariance)
    found = frechet_distance(own, statistics_of(other))
    # The root of a product of such covariances is itself off by 1e-5.
    np.testing.assert_allclose(found, without_covariances(features, other), rtol=2e-6)


def test_it_does_not_hang_on_the_order():
    first, second = (statistics_of(x) for x in pair())
    np.testing.assert_allclose(
        frechet_distance(first, second), frechet_distance(second, first), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Statistics(np.zeros(3), np.eye(3)), "2 features on one side and 3 on the other"),
        (Statistics(np.zeros(2), np.array([[1.0, 2], [0, 1]])), "a covariance is not symmetric"),
        (Statistics(np.zeros(2), np.diag([1.0, -1])), "a covariance has the eigenvalue -1"),
        (Statistics(np.zeros(2), np.eye(2) * np.nan), "the second population has a mean or a"),
    ],
)
def test_bad_statistics(second, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(Statistics(np.zeros(2), np.eye(2)), second)
