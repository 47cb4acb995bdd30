"""Sums in two parts of float32 against NumPy's float64."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.metrics import Statistics, moments, statistics, statistics_of
from jaxsearch.metrics.moments import Total, _plus, add
from tests.metrics.populations import pair


@pytest.mark.parametrize("num", [2, 511, 512, 1300])
def test_mean_and_covariance(num):
    """Kills: the divisor n; padding that counts; a last batch that is lost."""
    features, _ = pair(num=num, other=2)
    found, exact = statistics_of(features), features.astype(np.float64)
    assert found.number == num
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-6)
    wanted = np.cov(exact.T)
    np.testing.assert_allclose(found.covariance, wanted, atol=2e-6 * np.abs(wanted).max())
    assert found.mean.dtype == found.covariance.dtype == np.float64


def test_features_far_from_zero():
    """Kills: sums of squares without the shift, whose difference would have no digit left."""
    features = (1000 + np.random.default_rng(0).normal(size=(3000, 3))).astype(np.float32)
    found = statistics_of(features).covariance
    np.testing.assert_allclose(found, np.cov(features.astype(np.float64).T), atol=2e-5)


def test_small_terms_are_not_lost():
    """A plain float32 sum of 1 and a hundred thousand times 1e-8 is 1."""
    begin = Total(jnp.float32(1.0), jnp.float32(0.0))
    total = jax.jit(
        lambda total: jax.lax.fori_loop(
            0, 100_000, lambda i, total: _plus(total, jnp.float32(1e-8)), total
        )
    )(begin)
    found = float(total.high) + float(total.low)
    np.testing.assert_allclose(found, 1.001, rtol=1e-9)


def test_parts_are_one_population():
    features, _ = pair(num=600)
    empty = moments(features[0])
    one, other = (add(empty, jnp.asarray(part)) for part in (features[:250], features[250:]))
    whole, alone = statistics(one, other), statistics_of(features)
    assert whole.number == alone.number == 600
    np.testing.assert_allclose(whole.mean, alone.mean, rtol=1e-6)
    np.testing.assert_allclose(whole.covariance, alone.covariance, atol=1e-5)
    with pytest.raises(ValueError, match="parts of moments must have the same shift"):
        statistics(one, add(moments(features[1]), jnp.asarray(features)))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "features are of 1 images: pass 2 or more"),
        (np.zeros((4, 3, 3)), "features have the shape (4, 3, 3): pass [images, features]"),
        (np.array([[0.0], [np.nan], [np.inf]]), "features are not finite for 2 of 3 images"),
    ],
)
def test_bad_features(features, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        statistics_of(features)


def test_bad_statistics():
    seen = add(moments(np.zeros(2, np.float32)), jnp.asarray([[1.0, jnp.nan], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="features of an image are not finite"):
        statistics(seen)
    with pytest.raises(ValueError, match="a covariance of 0 images"):
        statistics(moments(np.zeros(2, np.float32)))
    with pytest.raises(ValueError, match="x has a mean of the shape"):
        Statistics(np.zeros(2), np.eye(3)).check("x")
