"""Aesthetic scores: how people would rate an image, read from its embedding."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess, unit


def aesthetic(
    name: str,
    embed: Embed,
    params: PyTree,
    weight: Array,
    bias: Array,
    *,
    preprocess: Preprocess,
) -> Verifier:
    """The rating of an image from 1 to 10 that a linear predictor expects: mostly 4 to 7.

    Args:
        name: the column it has in records.
        embed: images to embeddings; the same function object each time, as of `preprocess`.
            LAION's predictor reads that of CLIP ViT-L/14, version 2.5 that of SigLIP SoViT-400m.
        params: its weights.
        weight: [features] of the predictor.
        bias: [] of the predictor.
        preprocess: what stands before it.

    Returns:
        A verifier that needs nothing of the context.

    Reference:
        Schuhmann, Beaumont, Vencu et al., *LAION-5B*, 2022, section 5.4,
        https://arxiv.org/abs/2210.08402; as Ma et al. 2025 take it.
    """
    weights = {"network": params, "weight": weight, "bias": bias}
    return Verifier(name=name, apply=_apply(embed, preprocess), params=weights)


@functools.cache
def _apply(embed: Embed, preprocess: Preprocess) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        del context
        features = unit(embed(params["network"], preprocess(images)))
        # A sum and no matrix product, which accelerators round to fewer digits.
        return jnp.sum(features * params["weight"][None], axis=-1) + params["bias"]

    return apply
