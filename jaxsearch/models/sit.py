"""Interpolant transformers, SiT (Ma et al. 2024): DiT's network with another output and time.

The network is `models.dit.DiT` and its weights are read by `models.dit.load_dit`.

Reference: Ma, Goldstein, Albergo, Boffi, Vanden-Eijnden, Xie, *SiT: exploring flow and
diffusion-based generative models with scalable interpolant transformers*, 2024,
https://arxiv.org/abs/2401.08740.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.prediction import from_epsilon, from_flow, from_v, per_row
from jaxsearch.core.process import flow, trigonometric
from jaxsearch.core.types import Array, Denoiser, Prediction, PyTree
from jaxsearch.models.dit import GUIDED_CHANNELS, DiTConfig, dit_network
from jaxsearch.models.guidance import classifier_free_guidance

_PROCESSES = {"linear": flow, "gvp": trigonometric}
_PREDICTIONS = ("velocity", "score", "noise")


def interpolant_denoiser(
    network_apply: Callable[[PyTree, Array, Array, PyTree], Array],
    params: PyTree,
    *,
    shape: tuple[int, ...],
    prediction: Literal["velocity", "score", "noise"] = "velocity",
    path: Literal["linear", "gvp"] = "linear",
) -> Denoiser:
    """A network on a path from noise at its time `s = 0` to the clean latent at `s = 1`.

        x = a(s)*x0 + b(s)*eps,  velocity = a'(s)*x0 + b'(s)*eps,  score = -eps / b(s)

    (Ma et al. 2024, section 2, in the time of their published networks.) Here noise is at
    `t = 1 - s = 1`, so a velocity comes with the other sign. On the linear path, `a = s` and
    `b = 1 - s`, it is that of `from_flow`. On the one that keeps the variance ("GVP"),
    `a = sin(pi*s/2)` and `b = cos(pi*s/2)`, it is `pi/2` times that of `from_v`.

    Args:
        network_apply: `(params, x [n,*E], s [n], cond) -> output [n,*E]`. The same function object
            gives the same denoiser function, so that compiled programs are found again.
        params: weights of the network.
        shape: `*E`, the shape of one latent.
        prediction: what the output is. From a score or a noise nothing follows for `x0` where there
            is nothing but noise: their schedules have to begin below `t = 1`.
        path: which path it was trained on.

    Returns:
        A denoiser on `process.flow()`, or on `process.trigonometric()`.

    Raises:
        ValueError: if prediction or path is unknown.
    """
    if prediction not in _PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}: take 'velocity', 'score' or 'noise'")
    if path not in _PROCESSES:
        raise ValueError(f"unknown path {path!r}: take 'linear' or 'gvp'")
    return Denoiser(
        apply=_converted(network_apply, prediction, path),
        process=_PROCESSES[path](),
        shape=tuple(shape),
        params=params,
    )


@functools.cache
def _converted(network_apply: Callable[..., Array], prediction: str, path: str):
    def coefficients(t: Array) -> tuple[Array, Array]:
        if path == "linear":
            return 1.0 - t, t
        return jnp.sin(math.pi / 2 * (1.0 - t)), jnp.sin(math.pi / 2 * t)

    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        output = network_apply(params, x, 1.0 - t, cond)
        alpha, sigma = coefficients(t)
        if prediction == "velocity" and path == "linear":
            return from_flow(x, -output, sigma)
        if prediction == "velocity":
            return from_v(x, -2 / math.pi * output, alpha, sigma)
        eps = output if prediction == "noise" else -per_row(sigma, x) * output
        return from_epsilon(x, eps, alpha, sigma)

    return apply


def sit_denoiser(
    config: DiTConfig,
    params: PyTree,
    *,
    prediction: Literal["velocity", "score", "noise"] = "velocity",
    path: Literal["linear", "gvp"] = "linear",
    guidance: Array | float = 1.0,
    guided_channels: int | None = GUIDED_CHANNELS,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Denoiser:
    """An interpolant transformer; the defaults are those of the published SiT-XL/2.

    Its condition is the label, int32 [n]: 0 to `num_classes - 1`, or `num_classes` for any.

    Args:
        config: what it is made of.
        params: its weights, from `models.dit.load_dit`.
        prediction: what the network says; see `interpolant_denoiser`.
        path: which path it was trained on.
        guidance: scale of classifier-free guidance; 1 is none and costs one pass, others cost two.
        guided_channels: how many of the latent's channels are guided; the rest is as the label
            alone has it. None: all of them.
        dtype: float32 or bfloat16, in which products are computed.
        remat: whether a gradient computes each block again instead of keeping what is inside it.

    Raises:
        ValueError: if a setting is out of its range.
    """
    denoiser = interpolant_denoiser(
        dit_network(config, dtype=dtype, remat=remat),
        params,
        shape=(config.input_size, config.input_size, config.in_channels),
        prediction=prediction,
        path=path,
    )
    return classifier_free_guidance(
        denoiser,
        scale=guidance,
        null=np.int32(config.num_classes),
        guided_channels=guided_channels,
    )
