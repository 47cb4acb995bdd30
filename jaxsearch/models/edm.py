"""Preconditioning: how a network that sees a noisy latent becomes a denoiser (EDM, VP, VE)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.prediction import per_row
from jaxsearch.core.process import edm
from jaxsearch.core.types import Array, Denoiser, Prediction, PyTree


def edm_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    sigma_data: float,
    noise_scale: float = 0.25,
) -> Denoiser:
    """A network `F` under the preconditioning of EDM (Karras et al. 2022, equation 7 and table 1).

        x0 = c_skip*x + c_out*F(c_in*x; c_noise)
        c_skip = sigma_data^2 / total^2     c_out = sigma*sigma_data / total
        c_in = 1 / total                    c_noise = noise_scale * log(sigma)

    with `total^2 = sigma^2 + sigma_data^2`. Inserting `x0` into `eps = (x - x0) / sigma` by hand,

        eps = (sigma*c_in*x - sigma_data*F) / total,

    there is no difference of nearly equal numbers and no division by a small one, so `eps` keeps
    its precision as `sigma` goes to 0, where `(x - x0) / sigma` loses all of it.

    Args:
        network_apply: `(params, c_in*x [n,*E], c_noise [n], cond) -> F [n,*E]`. The same function
            object gives the same denoiser function, so that compiled programs are found again.
        params: weights of the network.
        shape: `*E`, the shape of one latent.
        sigma_data: standard deviation of the clean latents.
        noise_scale: what the logarithm of the noise level is multiplied by; the paper has 1/4, the
            network of Song et al. 2023, *Consistency models*, 250.

    Returns:
        A denoiser on `process.edm()`; its time is the noise level, which must be positive.

    Raises:
        ValueError: if `sigma_data` or `noise_scale` is not positive and finite.

    Reference: Karras, Aittala, Aila, Laine, *Elucidating the design space of diffusion-based
    generative models*, 2022, https://arxiv.org/abs/2206.00364.
    """
    check_range("sigma_data", sigma_data, 0.0, open_low=True)
    check_range("noise_scale", noise_scale, 0.0, open_low=True)
    return _denoiser(_edm(network_apply, float(sigma_data), float(noise_scale)), params, shape)


def vp_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    num_train_steps: int = 1000,
) -> Denoiser:
    """A network `F` of Song et al. 2021's variance-preserving process, as EDM (table 1) has it.

        x0 = x - sigma*F(c_in*x; c_noise)    eps = F
        c_in = 1 / sqrt(sigma^2 + 1)         c_noise = (num_train_steps - 1) * t(sigma)
        t(sigma) = (sqrt(beta_min^2 + 2*beta_d*log(1 + sigma^2)) - beta_min) / beta_d

    Args:
        network_apply: as for `edm_denoiser`, as are `params` and `shape`.
        beta_d: how much `beta` grows from time 0 to time 1.
        beta_min: `beta` at time 0.
        num_train_steps: the training steps that times up to 1 stood for.

    Returns:
        A denoiser on `process.edm()`; its time is the noise level, which must be positive.

    Raises:
        ValueError: if a number is out of its range.
    """
    check_range("beta_d", beta_d, 0.0, open_low=True)
    check_range("beta_min", beta_min, 0.0, open_low=True)
    check_count("num_train_steps", num_train_steps, 2)
    return _denoiser(
        _vp(network_apply, float(beta_d), float(beta_min), num_train_steps - 1), params, shape
    )


def ve_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
) -> Denoiser:
    """A network `F` of Song et al. 2021's variance-exploding process, as EDM (table 1) has it.

        x0 = x + sigma*F(x; log(sigma/2))    eps = -F

    Args:
        network_apply: as for `edm_denoiser`, as are `params` and `shape`.

    Returns:
        A denoiser on `process.edm()`; its time is the noise level, which must be positive.
    """
    return _denoiser(_ve(network_apply), params, shape)


def _denoiser(apply: Callable[..., Prediction], params: PyTree, shape: tuple[int, ...]) -> Denoiser:
    return Denoiser(apply=apply, process=edm(), shape=tuple(shape), params=params)


@functools.cache
def _vp(network_apply: Callable[..., Array], beta_d: float, beta_min: float, last_step: int):
    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        sigma = per_row(t, x)
        time = (jnp.sqrt(beta_min**2 + 2 * beta_d * jnp.log1p(t**2)) - beta_min) / beta_d
        eps = network_apply(params, jax.lax.rsqrt(sigma**2 + 1) * x, last_step * time, cond)
        return Prediction(x - sigma * eps, eps)

    return apply


@functools.cache
def _ve(network_apply: Callable[..., Array]):
    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        eps = -network_apply(params, x, jnp.log(t / 2), cond)
        return Prediction(x - per_row(t, x) * eps, eps)

    return apply


@functools.cache
def _edm(network_apply: Callable[..., Array], sigma_data: float, noise_scale: float):
    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        sigma = per_row(t, x)
        c_in = jax.lax.rsqrt(sigma**2 + sigma_data**2)
        unit = c_in * x
        output = network_apply(params, unit, noise_scale * jnp.log(t), cond)
        x0 = sigma_data * c_in * (sigma_data * unit + sigma * output)
        return Prediction(x0, c_in * (sigma * unit - sigma_data * output))

    return apply
