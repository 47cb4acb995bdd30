"""SigLIP's score: how surely an image belongs to its prompt."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess, cosine

Score = Literal["cosine", "logit", "probability"]


def siglip_score(
    name: str,
    embed: Embed,
    params: PyTree,
    logit_scale: Array,
    logit_bias: Array,
    *,
    preprocess: Preprocess,
    score: Score = "probability",
    text: str = "siglip_text",
) -> Verifier:
    """How well an image fits its prompt, by SigLIP.

    Args:
        name: the column it has in records.
        embed: images to embeddings; the same function object each time, as of `preprocess`.
        params: its weights.
        logit_scale: [] of the network: its exponential multiplies the cosine.
        logit_bias: [] of the network, added to that.
        preprocess: what stands before it.
        score: the `"probability"` that they belong together, in [0, 1]; its `"logit"`, which says
            the same and still differs where the probability is 0 or 1 in float32; or the
            `"cosine"`, in [-1, 1].
        text: the entry of the context that holds the prompts' embeddings [n, features], of any
            length.

    Returns:
        A verifier that needs `text`.

    Raises:
        ValueError: if the score is unknown.

    Reference:
        Zhai, Mustafa, Kolesnikov, Beyer, *Sigmoid loss for language image pre-training*, 2023,
        equation 2, https://arxiv.org/abs/2303.15343.
    """
    if score not in ("cosine", "logit", "probability"):
        raise ValueError(f"score is {score!r}: it must be 'cosine', 'logit' or 'probability'")
    weights = {"network": params, "logit_scale": logit_scale, "logit_bias": logit_bias}
    apply = _apply(embed, preprocess, score, text)
    return Verifier(name=name, apply=apply, needs=(text,), params=weights)


@functools.cache
def _apply(embed: Embed, preprocess: Preprocess, score: Score, text: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        found = cosine(embed(params["network"], preprocess(images)), context[text])
        if score == "cosine":
            return found
        found = jnp.exp(params["logit_scale"]) * found + params["logit_bias"]
        return jax.nn.sigmoid(found) if score == "probability" else found

    return apply
