"""EDM preconditioning against the paper's formulas and against a network that is exact."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import edm
from jaxsearch.models.edm import edm_denoiser
from tests.toys import gaussian

SIGMA_DATA = 0.6
SIGMAS = np.geomspace(0.002, 80.0, 9)


def _network(params, x, c_noise, cond):
    """Anything that depends on all of its inputs."""
    rows = (-1,) + (1,) * (x.ndim - 1)
    return jnp.tanh(params * x) + jnp.sin(3 * c_noise.reshape(rows)) + cond.reshape(rows)


def _inputs(dtype):
    rng = np.random.default_rng(0)
    x0, noise = rng.normal(0, SIGMA_DATA, (9, 4, 3)), rng.normal(size=(9, 4, 3))
    x = x0 + SIGMAS[:, None, None] * noise
    return (np.asarray(a, dtype) for a in (x, SIGMAS, rng.normal(size=9)))


def _by_the_paper(x, sigma, cond):
    """Karras et al. 2022, table 1 and equation 7, in NumPy."""
    sigma = sigma[:, None, None]
    c_skip = SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)
    c_out = sigma * SIGMA_DATA / np.sqrt(SIGMA_DATA**2 + sigma**2)
    c_in = 1 / np.sqrt(sigma**2 + SIGMA_DATA**2)
    c_noise = 0.25 * np.log(sigma)
    output = np.tanh(1.7 * c_in * x) + np.sin(3 * c_noise) + cond[:, None, None]
    x0 = c_skip * x + c_out * output
    return x0, (x - x0) / sigma


def test_equals_the_papers_formulas():
    with jax.enable_x64(True):
        x, sigma, cond = _inputs(np.float64)
        denoiser = edm_denoiser(_network, np.float64(1.7), shape=(4, 3), sigma_data=SIGMA_DATA)
        prediction = denoiser(*(jnp.asarray(a) for a in (x, sigma, cond)))
        x0, eps = _by_the_paper(x, sigma, cond)
        np.testing.assert_allclose(prediction.x0, x0, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(prediction.eps, eps, rtol=1e-9, atol=1e-11)


def test_noise_is_precise_in_single_precision_at_every_level():
    x, sigma, cond = _inputs(np.float32)
    denoiser = edm_denoiser(_network, np.float32(1.7), shape=(4, 3), sigma_data=SIGMA_DATA)
    prediction = denoiser(*(jnp.asarray(a) for a in (x, sigma, cond)))
    x0, eps = _by_the_paper(*(np.float64(a) for a in (x, sigma, cond)))
    np.testing.assert_allclose(prediction.x0, x0, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(prediction.eps, eps, rtol=2e-6, atol=2e-6)
    naive = (x - np.float32(x0)) / sigma[:, None, None]
    assert np.abs(naive - eps)[0].max() > 1e-5, "the subtraction is harmless: the test is too"


def test_latent_is_made_of_both_predictions():
    x, sigma, cond = _inputs(np.float32)
    denoiser = edm_denoiser(_network, np.float32(1.7), shape=(4, 3), sigma_data=SIGMA_DATA)
    prediction = denoiser(*(jnp.asarray(a) for a in (x, sigma, cond)))
    again = np.float64(prediction.x0) + np.float64(sigma)[:, None, None] * prediction.eps
    np.testing.assert_allclose(again, x, rtol=1e-6, atol=1e-6)


def test_exact_network_of_a_gaussian():
    """`F` of data `N(mean, std^2)`, by solving equation 7 for the closed-form denoiser."""
    mean, std = 0.3, 0.9

    def network(params, unit, c_noise, cond):
        sigma = jnp.exp(4 * c_noise)[:, None, None]
        total = jnp.sqrt(sigma**2 + SIGMA_DATA**2)
        x = unit * total
        x0 = (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)
        return (x0 - SIGMA_DATA**2 / total**2 * x) * total / (sigma * SIGMA_DATA)

    with jax.enable_x64(True):
        x, sigma, _ = _inputs(np.float64)
        exact = gaussian(mean, std, (4, 3), edm())
        exact = exact.apply({"mean": mean, "std": std}, jnp.asarray(x), jnp.asarray(sigma), None)
        denoiser = edm_denoiser(network, (), shape=(4, 3), sigma_data=SIGMA_DATA)
        prediction = denoiser(jnp.asarray(x), jnp.asarray(sigma), None)
        np.testing.assert_allclose(prediction.x0, exact.x0, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(prediction.eps, exact.eps, rtol=1e-7, atol=1e-9)


def test_weights_are_leaves_and_the_function_is_kept():
    first, second = (
        edm_denoiser(_network, np.float32(w), shape=(4, 3), sigma_data=SIGMA_DATA) for w in (1, 2)
    )
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jax.tree.leaves(first) == [1.0]
    assert first.process is edm()
    assert first.passes == 1


def test_refuses_a_sigma_data_that_is_no_scale():
    with pytest.raises(ValueError, match="sigma_data is 0"):
        edm_denoiser(_network, (), shape=(1,), sigma_data=0.0)
