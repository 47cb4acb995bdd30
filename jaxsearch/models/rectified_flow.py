"""Networks that predict the velocity of the straight path from the clean latent to the noise."""

from __future__ import annotations

import functools
from collections.abc import Callable

from jaxsearch.core.prediction import from_flow
from jaxsearch.core.process import flow
from jaxsearch.core.types import Array, Denoiser, Prediction, PyTree


def rectified_flow_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    time_scale: float = 1000.0,
) -> Denoiser:
    """A network that predicts `eps - x0` of `x = (1 - t)*x0 + t*eps` (Esser et al. 2024, eq. 13).

    Args:
        network_apply: `(params, x [n,*E], time_scale * t [n], cond) -> velocity [n,*E]`. The same
            function object gives the same denoiser function, so that compiled programs are found
            again.
        params: weights of the network.
        shape: `*E`, the shape of one latent.
        time_scale: what the network's own time is where there is nothing but noise.
    """
    apply = _apply(network_apply, float(time_scale))
    return Denoiser(apply=apply, process=flow(), shape=tuple(shape), params=params)


@functools.cache
def _apply(network_apply: Callable[..., Array], time_scale: float) -> Callable[..., Prediction]:
    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        return from_flow(x, network_apply(params, x, time_scale * t, cond), t)

    return apply
