"""Every adapter returns the `x0` and `eps` that make up its `x`, whatever the network meant."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.prediction import from_epsilon, from_flow, from_v, from_x0, per_row
from tests import toys

SHAPE = (5, 3, 2)


def pieces(process, times) -> tuple:
    """Clean latents and noises [5, 3, 2], their `x`, and `alpha` and `sigma` [5]."""
    random = np.random.default_rng(0)
    x0, eps = random.standard_normal((2, *SHAPE)).astype(np.float32)
    alpha, sigma = (np.asarray(f(times), np.float32) for f in (process.alpha, process.sigma))
    x = alpha[:, None, None] * x0 + sigma[:, None, None] * eps
    return tuple(jnp.asarray(v) for v in (x, x0, eps, alpha, sigma))


def check(prediction, x, x0, eps, alpha, sigma) -> None:
    """Both parts are the true ones, and they sum to `x`. Dividing by 0.05 costs 20 roundings."""
    np.testing.assert_allclose(prediction.x0, x0, atol=1e-5)
    np.testing.assert_allclose(prediction.eps, eps, atol=1e-5)
    again = alpha[:, None, None] * prediction.x0 + sigma[:, None, None] * prediction.eps
    np.testing.assert_allclose(again, x, atol=1e-5)


def times_of(name: str) -> np.ndarray:
    """Five times, one per row, all different."""
    process = toys.processes()[name]
    return process.time(np.array([0.05, 0.3, 1.0, 3.0, 15.0]))


@pytest.mark.parametrize("name", ["edm", "variance_preserving", "flow", "trigonometric"])
def test_x0_and_epsilon(name):
    """From the clean latent, and from the noise, on every process.

    Kills: `alpha` and `sigma` exchanged; rows broadcast over the wrong axis.
    """
    process = toys.processes()[name]
    x, x0, eps, alpha, sigma = pieces(process, times_of(name))
    check(from_x0(x, x0, alpha, sigma), x, x0, eps, alpha, sigma)
    check(from_epsilon(x, eps, alpha, sigma), x, x0, eps, alpha, sigma)


@pytest.mark.parametrize("name", ["variance_preserving", "trigonometric"])
def test_v(name):
    """From `v = alpha*eps - sigma*x0` of a variance-preserving process.

    Kills: either sign of `v`.
    """
    x, x0, eps, alpha, sigma = pieces(toys.processes()[name], times_of(name))
    v = alpha[:, None, None] * eps - sigma[:, None, None] * x0
    check(from_v(x, v, alpha, sigma), x, x0, eps, alpha, sigma)


def test_flow():
    """From `velocity = eps - x0`, with both ends of the path, where one part is `x` itself.

    Kills: the velocity's sign; a division by `alpha` or `sigma`.
    """
    times = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    x, x0, eps, alpha, sigma = pieces(toys.processes()["flow"], times)
    prediction = from_flow(x, eps - x0, sigma)
    check(prediction, x, x0, eps, alpha, sigma)
    np.testing.assert_array_equal(prediction.x0[0], x[0])
    np.testing.assert_array_equal(prediction.eps[-1], x[-1])


def test_per_row():
    """One value for each row, whatever the latent's shape.

    Kills: values broadcast along the last axis (the shape is square, so nothing else would tell).
    """
    values = jnp.arange(3.0)
    for shape in ((3,), (3, 3), (3, 3, 3), (3, 4, 4, 1)):
        spread = np.broadcast_to(per_row(values, jnp.zeros(shape)), shape)
        for i in range(3):
            np.testing.assert_array_equal(spread[i], np.full(shape[1:], float(i)))


@pytest.mark.parametrize("name", ["edm", "variance_preserving", "flow", "trigonometric"])
def test_toys_are_consistent_and_exact(name):
    """The tests' own denoisers: both parts make up `x`, and `x0` is the posterior mean.

    The mean is computed by numerical integration over the prior in one dimension.

    Kills: a wrong mode probability or shrinkage in `toys`, on which many other tests stand.
    """
    process = toys.processes()[name]
    times = times_of(name)
    x, _, _, alpha, sigma = pieces(process, times)
    cond = jnp.linspace(0.2, 1.0, 5)
    gaussian = toys.gaussian(np.full((3, 2), 0.4), np.full((3, 2), 0.7), (3, 2), process)
    for denoiser in (gaussian, toys.mixture_denoiser(process, (3, 2))):
        said = denoiser(x, jnp.asarray(times, jnp.float32), cond)
        again = alpha[:, None, None] * said.x0 + sigma[:, None, None] * said.eps
        np.testing.assert_allclose(again, x, atol=1e-5)

    grid = np.linspace(-6.0, 6.0, 20001)
    small = x[:, :1, 0]
    separation = np.asarray(cond, np.float64)[:, None]
    bumps = [np.exp(-((grid - m) ** 2) / (2 * 0.3**2)) for m in (separation, -separation)]
    priors = {"mixture": sum(bumps), "gaussian": np.exp(-((grid - 0.4) ** 2) / (2 * 0.7**2))}
    denoisers = {
        "mixture": toys.mixture_denoiser(process, (1,)),
        "gaussian": toys.gaussian(0.4, 0.7, (1,), process),
    }
    for kind, prior in priors.items():
        exponent = (np.asarray(small) - np.asarray(alpha)[:, None] * grid) ** 2
        weight = prior * np.exp(-exponent / (2 * np.asarray(sigma, np.float64)[:, None] ** 2))
        mean = np.sum(weight * grid, axis=1) / np.sum(weight, axis=1)
        said = denoisers[kind](small, jnp.asarray(times, jnp.float32), cond)
        np.testing.assert_allclose(said.x0[:, 0], mean, atol=2e-5)
