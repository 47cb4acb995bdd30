"""Networks that predict the noise, or `v`, of a discrete variance-preserving process."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.prediction import from_epsilon, from_v
from jaxsearch.core.types import Array, Denoiser, Prediction, Process, PyTree


def epsilon_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    process: Process,
) -> Denoiser:
    """A network that predicts the noise (Ho et al. 2020, equation 14), `x0` by what is left.

    Args:
        network_apply: `(params, x [n,*E], t [n], cond) -> eps [n,*E]`, with `t` the index of the
            training step in float32, which may lie between two. The same function object gives the
            same denoiser function, so that compiled programs are found again.
        params: weights of the network.
        shape: `*E`, the shape of one latent.
        process: a `variance_preserving` process: the one it was trained on.

    Raises:
        ValueError: if the process is another one.

    Reference: Ho, Jain, Abbeel, *Denoising diffusion probabilistic models*, 2020,
    https://arxiv.org/abs/2006.11239.
    """
    return _denoiser(network_apply, params, tuple(shape), process, from_epsilon)


def v_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    process: Process,
) -> Denoiser:
    """A network that predicts `v = alpha*eps - sigma*x0` (Salimans & Ho 2022, appendix D).

    Arguments, result and errors are those of `epsilon_denoiser`, with `v` for the noise.

    Reference: Salimans, Ho, *Progressive distillation for fast sampling of diffusion models*, 2022,
    https://arxiv.org/abs/2202.00512.
    """
    return _denoiser(network_apply, params, tuple(shape), process, from_v)


def _denoiser(
    network_apply: Callable[..., Array],
    params: PyTree,
    shape: tuple[int, ...],
    process: Process,
    read: Callable[[Array, Array, Array, Array], Prediction],
) -> Denoiser:
    if process.name != "variance_preserving":
        raise ValueError(f"the {process.name} process has no training steps to predict noise at")
    apply = _apply(network_apply, process, read)
    return Denoiser(apply=apply, process=process, shape=shape, params=params)


@functools.cache
def _apply(
    network_apply: Callable[..., Array],
    process: Process,
    read: Callable[[Array, Array, Array, Array], Prediction],
) -> Callable[[PyTree, Array, Array, PyTree], Prediction]:
    last = int(process.time(np.asarray(np.inf)))
    steps = np.arange(last + 1, dtype=np.float64)
    # The process itself goes in a straight line between the steps' logarithms, so this is exact.
    log_ratio = np.log(process.sigma(steps) / process.alpha(steps)).astype(np.float32)

    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        ratio = jnp.exp(jnp.interp(t, jnp.asarray(steps, jnp.float32), jnp.asarray(log_ratio)))
        alpha = jax.lax.rsqrt(1.0 + ratio**2)
        return read(x, network_apply(params, x, t, cond), alpha, ratio * alpha)

    return apply
