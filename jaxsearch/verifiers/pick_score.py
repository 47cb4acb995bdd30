"""PickScore: which of several images people would pick for a prompt."""

from __future__ import annotations

import functools

import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess, cosine


def pick_score(
    name: str,
    embed: Embed,
    params: PyTree,
    logit_scale: Array,
    *,
    preprocess: Preprocess,
    text: str = "pick_score_text",
) -> Verifier:
    """`exp(s) * cosine` of image and prompt, by a CLIP that was trained on people's choices.

    The softmax of the scores of several images for one prompt is how likely each is to be picked.

    Args:
        name: the column it has in records.
        embed: images to embeddings; the same function object each time, as of `preprocess`.
        params: its weights.
        logit_scale: [] `s` of the network.
        preprocess: what stands before it.
        text: the entry of the context that holds the prompts' embeddings [n, features], of any
            length.

    Returns:
        A verifier that needs `text`.

    Reference:
        Kirstain, Polyak, Singer, Matiana, Penna, Levy, *Pick-a-Pic: an open dataset of user
        preferences for text-to-image generation*, 2023, equation 1,
        https://arxiv.org/abs/2305.01569.
    """
    weights = {"network": params, "logit_scale": logit_scale}
    return Verifier(name=name, apply=_apply(embed, preprocess, text), needs=(text,), params=weights)


@functools.cache
def _apply(embed: Embed, preprocess: Preprocess, text: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        found = cosine(embed(params["network"], preprocess(images)), context[text])
        return jnp.exp(params["logit_scale"]) * found

    return apply
