"""Classifier-free guidance: a denoiser pushed away from what it says without a condition."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, Denoiser, Prediction, PyTree


def classifier_free_guidance(
    denoiser: Denoiser,
    *,
    scale: Array | float,
    null: PyTree,
    guided_channels: int | None = None,
) -> Denoiser:
    """Extrapolates from the unconditional to the conditional prediction.

        prediction = unconditional + scale * (conditional - unconditional)

    for `x0` and `eps` alike, so `x = alpha*x0 + sigma*eps` stays true (Ho & Salimans 2022, equation
    6, with `scale = 1 + w`). Both halves run in one call of `2n` latents. The two copies of a
    latent are neighbours in it, so a sharded batch doubles without moving rows between devices.

    Args:
        denoiser: conditional, trained with its condition dropped at times.
        scale: 1 is the conditional model itself: a Python 1 returns `denoiser` as it is, at one
            pass per call. Any other number, and any array (also a traced one), is a leaf of the
            result's `params`, so that scales share one compiled program.
        null: the condition of one unconditional sample: a pytree like `cond`, without batch axis.
        guided_channels: how many channels (of the last axis, the first ones) are extrapolated; the
            rest is the conditional prediction. `x0` and `eps` of a channel go together, so their
            sum stays `x`. None: all of them.

    Returns:
        A denoiser of twice the passes, with the inner weights among its leaves.

    Raises:
        ValueError: if the scale is not finite, or more channels are guided than there are.

    Reference: Ho, Salimans, *Classifier-free diffusion guidance*, 2022,
    https://arxiv.org/abs/2207.12598.
    """
    check_range("guidance scale", scale)
    if guided_channels is not None:
        check_count("guided_channels", guided_channels)
        check_range("guided_channels", guided_channels, 1, denoiser.shape[-1])
    if isinstance(scale, int | float | np.number) and scale == 1:
        return denoiser
    return Denoiser(
        apply=_guided(denoiser.apply, guided_channels),
        process=denoiser.process,
        shape=denoiser.shape,
        passes=2 * denoiser.passes,
        params={
            "inner": denoiser.params,
            "null": jax.tree.map(jnp.asarray, null),
            "scale": jnp.asarray(scale, jnp.float32),
        },
    )


@functools.cache
def _guided(
    inner_apply: Callable[[PyTree, Array, Array, PyTree], Prediction], guided_channels: int | None
):
    def pair(first: Array, second: Array) -> Array:
        try:
            second = jnp.broadcast_to(second, first.shape)
        except ValueError as error:
            raise ValueError(
                f"the prompts' conditions have the shape {first.shape[1:]}, and the model's own of "
                f"none has {jnp.shape(second)}: they were made for another model or size"
            ) from error
        both = jnp.stack([first, second], axis=1)
        return both.reshape((-1, *first.shape[1:]))

    def apply(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
        conds = jax.tree.map(pair, cond, params["null"])
        both = inner_apply(params["inner"], pair(x, x), pair(t, t), conds)

        def extrapolate(values: Array) -> Array:
            conditional, unconditional = values[0::2], values[1::2]
            scale = params["scale"].astype(values.dtype)
            guided = unconditional + scale * (conditional - unconditional)
            if guided_channels is None:
                return guided
            parts = guided[..., :guided_channels], conditional[..., guided_channels:]
            return jnp.concatenate(parts, axis=-1)

        return Prediction(extrapolate(both.x0), extrapolate(both.eps))

    return apply
