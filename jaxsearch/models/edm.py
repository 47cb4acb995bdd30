"""EDM preconditioning: a network of unit-variance input and output as a denoiser."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_range
from jaxsearch.core.prediction import per_row
from jaxsearch.core.process import edm
from jaxsearch.core.types import Array, Denoiser, Prediction, PyTree


def edm_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    sigma_data: float,
) -> Denoiser:
    """A network `F` under the preconditioning of EDM (Karras et al. 2022, equation 7 and table 1).

        x0 = c_skip*x + c_out*F(c_in*x; c_noise)
        c_skip = sigma_data^2 / total^2     c_out = sigma*sigma_data / total
        c_in = 1 / total                    c_noise = log(sigma) / 4

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

    Returns:
        A denoiser on `process.edm()`; its time is the noise level, which must be positive.

    Raises:
        ValueError: if `sigma_data` is not positive and finite.

    Reference: Karras, Aittala, Aila, Laine, *Elucidating the design space of diffusion-based
    generative models*, 2022, https://arxiv.org/abs/2206.00364.
    """
    check_range("sigma_data", sigma_data, 0.0, open_low=True)
    return Denoiser(
        apply=_preconditioned(network_apply, float(sigma_data)),
        process=edm(),
        shape=tuple(shape),
        params=params,
    )


@functools.cache
def _preconditioned(network_apply: Callable[..., Array], sigma_data: float):
    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        sigma = per_row(t, x)
        c_in = jax.lax.rsqrt(sigma**2 + sigma_data**2)
        unit = c_in * x
        output = network_apply(params, unit, jnp.log(t) / 4, cond)
        x0 = sigma_data * c_in * (sigma_data * unit + sigma * output)
        return Prediction(x0, c_in * (sigma * unit - sigma_data * output))

    return apply
