"""Inception score, kernel distance, precision, recall and diversity against their formulas."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from scipy.spatial.distance import cdist, pdist

from jaxsearch.metrics import (
    inception_score,
    kernel_distance,
    precision_recall,
    prompt_diversity,
)
from jaxsearch.metrics.distances import BLOCK
from jaxsearch.metrics.precision_recall import _radii
from tests.metrics.populations import pair


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def test_inception_score_is_its_formula():
    """Kills: parts that are every tenth image; means of KL over parts before `exp`."""
    logits = np.random.default_rng(0).normal(size=(103, 7)).astype(np.float32)
    values = []
    for part in (slice(0, 34), slice(34, 68), slice(68, 103)):
        p = softmax(logits[part])
        divergence = np.sum(p * (np.log(p) - np.log(p.mean(axis=0))), axis=1)
        values.append(np.exp(divergence.mean()))
    found = inception_score(logits, splits=3)
    np.testing.assert_allclose(found, (np.mean(values), np.std(values)), rtol=1e-12)


def test_inception_scores_that_are_known():
    """As many as there are classes where each image is surely of one; 1 where all are alike."""
    sure = np.where(np.eye(5)[np.arange(50) % 5] > 0, 0.0, -1e4).astype(np.float32)
    np.testing.assert_allclose(inception_score(sure, splits=2).mean, 5, rtol=1e-12)
    np.testing.assert_allclose(inception_score(sure[::5], splits=1).mean, 1, rtol=1e-12)
    np.testing.assert_allclose(inception_score(np.zeros((9, 4)), splits=3), (1, 0), atol=1e-12)


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x.astype(np.float64) @ y.T.astype(np.float64) / x.shape[1] + 1) ** 3


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 4 of Binkowski et al. 2018, sum by sum."""
    n, total = len(x), 0.0
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    for i in range(n):
        for j in range(n):
            total += (xx[i, j] + yy[i, j]) / (n * (n - 1)) if i != j else 0.0
            total -= 2 * xy[i, j] / n**2
    return total


def test_kernel_distance_of_whole_populations():
    """A subset of all images is those images, in whichever order. Kills: the diagonal."""
    first, second = pair(num=60, other=60)
    found = kernel_distance(jax.random.key(0), first, second, subsets=2, subset_size=60)
    np.testing.assert_allclose(found.mean, unbiased(first, second), rtol=2e-5)
    assert found.std < 1e-3 * found.mean


def test_kernel_distance_of_subsets():
    """Without bias: of one population with itself, about 0 and now and then below."""
    first, _ = pair(num=2000)
    found = kernel_distance(jax.random.key(1), first[:1000], first[1000:], subset_size=100)
    assert found.std > 0
    assert abs(found.mean) < 4 * found.std / np.sqrt(100)
    exact = unbiased(*pair(num=400, other=400))
    drawn = kernel_distance(jax.random.key(2), *pair(num=400, other=400), subset_size=80)
    assert abs(drawn.mean - exact) < 4 * drawn.std / np.sqrt(100)
    assert 0 < drawn.std < exact


def test_kernel_distance_hangs_on_its_key_alone():
    first, second = pair()
    one, again, other = (
        kernel_distance(jax.random.key(k), first, second, subsets=4, subset_size=50)
        for k in (3, 3, 4)
    )
    assert one == again
    assert one != other


def shares(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, float]:
    """Equations 1 and 2 of Kynkaanniemi et al. 2019."""

    def inside(points: np.ndarray, centres: np.ndarray) -> float:
        radii = np.sort(cdist(centres, centres), axis=1)[:, k]  # the nearest is itself
        return float(np.mean((cdist(points, centres) <= radii[None]).any(axis=1)))

    return inside(made, real), inside(real, made)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("num", "other", "k"), [(70, 30, 3), (40, 300, 1), (BLOCK + 3, 40, 5)])
def test_precision_and_recall(num, other, k, devices):
    """Kills: precision and recall exchanged, a point as its own neighbour, padding that counts;
    points that are none of a device's, or of two.
    """
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("particle",), axis_types=(AxisType.Auto,))
    real, made = pair(num=num, other=other, size=4)
    made = made - made.mean(0) + real.mean(0) + 0.3
    found, wanted = precision_recall(real, made, neighbours=k, mesh=mesh), shares(real, made, k)
    assert found == pytest.approx(wanted, abs=1e-6)
    assert 0.1 < min(wanted) < 0.99


def test_radii_of_several_blocks():
    """Kills: padding, which lies in the middle, as somebody's neighbour."""
    points, _ = pair(num=BLOCK + 3, size=2)
    points = points - points.mean(0)
    own = np.arange(5, BLOCK + 3, dtype=np.int32)
    found = np.sqrt(jax.jit(_radii, static_argnums=1)(points, 2, own))
    wanted = np.sort(cdist(points, points), axis=1)[5:, 2]
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_precision_and_recall_that_are_known():
    real, _ = pair(num=50)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    same = np.repeat(real[:1], 50, axis=0)  # a search that always finds the same
    assert precision_recall(real, same) == (1, pytest.approx(1 / 50))


def test_diversity_is_the_mean_over_prompts():
    """Kills: large groups that count more, samples of two prompts that are compared, padding."""
    features, _ = pair(num=61)
    prompts = np.array([0] * 2 + [1] * 9 + [2] + [7] * 49)[np.random.default_rng(0).permutation(61)]
    wanted = [pdist(features[prompts == one].astype(np.float64)).mean() for one in (0, 1, 7)]
    np.testing.assert_allclose(prompt_diversity(features, prompts), np.mean(wanted), rtol=2e-6)


def test_diversities_that_are_known():
    features, _ = pair(num=9)
    same = np.repeat(features[:3], 3, axis=0)
    assert prompt_diversity(same, np.repeat(["a", "b", "c"], 3)) < 1e-5
    assert np.isnan(prompt_diversity(features, np.arange(9)))
    large = np.concatenate([np.zeros((BLOCK, 2)), np.ones((BLOCK, 2))]).astype(np.float32)
    wanted = np.sqrt(2) * BLOCK / (2 * BLOCK - 1)
    found = prompt_diversity(large, np.zeros(2 * BLOCK))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: inception_score(x, splits=20), "logits are of 10 images: pass 20 or more"),
        (lambda x: inception_score(x, splits=0), "splits is 0"),
        (
            lambda x: kernel_distance(jax.random.key(0), x, x),
            "subset_size is 1000, but there are 10 images: take as many or fewer",
        ),
        (lambda x: precision_recall(x[:3], x), "real are of 3 images: pass 4 or more"),
        (lambda x: precision_recall(x, x[:, :2]), "3 features on one side and 2 on the other"),
        (lambda x: prompt_diversity(x, np.zeros(9)), "prompts have the shape (9,), but there are"),
        (lambda x: prompt_diversity(x * np.nan, np.zeros(10)), "not finite for 10 of 10 images"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(np.ones((10, 3), np.float32))
