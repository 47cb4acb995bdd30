"""Aesthetic predictors that are linear layers on an embedding: LAION's, and version 2.5 on SigLIP.

LAION's second predictor (https://github.com/christophschuhmann/improved-aesthetic-predictor) and
version 2.5 (https://github.com/discus0434/aesthetic-predictor-v2-5) have five linear layers with
dropout between them and no activation. Without training there is no dropout, and linear layers
after each other are one: `w5 (... (w1 x + b1) ...) + b5 = w x + b`. That is exact but for rounding,
which is done in float64 here and to float32 once.

Reference: Schuhmann, Beaumont, Vencu et al., *LAION-5B*, 2022, section 5.4,
https://arxiv.org/abs/2210.08402.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array
from jaxsearch.models.loading import loaded_once
from jaxsearch.models.pickles import read_state_dict

# The places of the linear layers among all. Those of LAION's predictors with activations between
# them (`reluMSE`) have other numbers, so that they are not taken for linear ones.
_LAYOUTS = {
    "layers": (0, 2, 4, 6, 7),
    "scoring_head": (0, 2, 4, 6, 8),
    "layers.scoring_head": (0, 2, 4, 6, 8),
}


class AestheticHead(NamedTuple):
    """An affine map of an embedding of length one: `sum(weight * embedding) + bias`."""

    weight: Array  # [features] float32
    bias: Array  # [] float32
    encoder: str  # whose embedding: "clip" or "siglip"


@loaded_once
def load_aesthetic_head(path: str | os.PathLike[str]) -> AestheticHead:
    """Reads an aesthetic predictor as one affine map.

    Args:
        path: LAION's `sac+logos+ava1-l14-linearMSE.pth` (Apache-2.0), on the image embedding of
            CLIP ViT-L/14, with the keys `layers.{0,2,4,6,7}`; or version 2.5's
            `aesthetic_predictor_v2_5.pth` (AGPL-3.0), on that of `siglip-so400m-patch14-384`, whose
            keys are taken to be `scoring_head.{0,2,4,6,8}` or `layers.scoring_head.{...}`.

    Returns:
        Its weights on the default device.

    Raises:
        ValueError: if the file cannot be read, has other keys, or its layers do not fit each other.
            The message names it.
    """
    tensors = read_state_dict(path)
    weight, bias = affine(
        linear_layers(tensors, _LAYOUTS, source=path, what="linear aesthetic predictor")
    )
    encoder = "siglip" if any("scoring_head" in key for key in tensors) else "clip"
    # Whoever loads inside a traced function gets arrays all the same, fit to be kept in a cache.
    with jax.ensure_compile_time_eval():
        return AestheticHead(
            jnp.asarray(weight[0], jnp.float32), jnp.asarray(bias[0], jnp.float32), encoder
        )


def affine(layers: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Linear layers after each other as one, in float64.

    Args:
        layers: weight [out, in] and bias [out] of each, the first first.

    Returns:
        Weight [out of the last, in of the first] and bias [out of the last].
    """
    (weight, bias), *rest = [
        (one.astype(np.float64), two.astype(np.float64)) for one, two in layers
    ]
    for following, shift in rest:
        weight, bias = following @ weight, following @ bias + shift
    return weight, bias


def linear_layers(
    tensors: Mapping[str, np.ndarray],
    layouts: Mapping[str, tuple[int, ...]],
    *,
    source: str | os.PathLike[str],
    what: str,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Linear layers that are applied after each other to one number, the first first.

    Args:
        tensors: no others than theirs.
        layouts: what may stand before the layers' numbers, and these.
        source: where they are from, for messages.
        what: they are, for messages.

    Returns:
        Weight [out, in] and bias [out] of each.

    Raises:
        ValueError: if they have other keys, do not fit each other, or have values that are not
            finite floats. The message names it.
    """
    for prefix, places in layouts.items():
        names = [(f"{prefix}.{place}.weight", f"{prefix}.{place}.bias") for place in places]
        if {name for pair in names for name in pair} == set(tensors):
            break
    else:
        raise ValueError(
            f"{source} is no {what}: it has the keys "
            f"{', '.join(sorted(tensors)[:3])} ..., not those of {' or '.join(layouts)}"
        )
    width: int | None = None
    for pair in names:
        weight, bias = (tensors[name] for name in pair)
        fits = weight.ndim == 2 and width in (None, weight.shape[1])
        if not fits or bias.shape != weight.shape[:1] or (pair is names[-1] and len(bias) != 1):
            raise ValueError(
                f"{source}: {pair[0]} is {weight.shape} and its bias {bias.shape}, which does not "
                "fit what is beside it"
            )
        width = len(bias)
        for name in pair:
            is_float = jnp.issubdtype(tensors[name].dtype, jnp.floating)
            if not is_float or not np.isfinite(tensors[name].astype(np.float64)).all():
                raise ValueError(f"{source}: {name} has values that are not finite floats")
    return [(tensors[weight], tensors[bias]) for weight, bias in names]
