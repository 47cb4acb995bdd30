"""Self-supervised scores: how much of a sample could be seen in an early estimate of it."""

from __future__ import annotations

import functools

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess, cosine


def self_supervised_similarity(
    embed: Embed, params: PyTree, one: Array, two: Array, *, preprocess: Preprocess
) -> Array:
    """The cosine between the features of two images, pair by pair: [n] float32 in [-1, 1].

    Args:
        embed: images to features, of CLIP, DINOv2 or SigLIP.
        params: its weights.
        one: images [n,h,w,c] float32 in [0, 1].
        two: as `one`; their sides may differ from those of `one`.
        preprocess: what stands before the network.
    """
    first, second = (embed(params, preprocess(images)) for images in (one, two))
    return cosine(first, second)


def self_supervised(
    name: str,
    embed: Embed,
    params: PyTree,
    *,
    preprocess: Preprocess,
    estimate: str = "estimate",
) -> Verifier:
    """How alike are a sample and the clean estimate that its sampler had of it at a noise level.

    No label and no prompt is needed. Ma et al. take the estimate at sigma = 0.4, where it goes with
    the logits of a classifier at r = 0.74 for DINO's features and 0.32 for CLIP's.

    Args:
        name: the column it has in records.
        embed: images to features; the same function object each time, as of `preprocess`.
        params: its weights.
        preprocess: what stands before it.
        estimate: the entry of the context that holds the estimates, decoded: [n,h,w,c] float32 in
            [0, 1].

    Returns:
        A verifier that needs `estimate`.

    Reference:
        Ma, Tong, Jia et al., *Inference-time scaling for diffusion models beyond scaling denoising
        steps*, 2025, https://arxiv.org/abs/2501.09732.
    """
    apply = _apply(embed, preprocess, estimate)
    return Verifier(name=name, apply=apply, needs=(estimate,), params=params)


@functools.cache
def _apply(embed: Embed, preprocess: Preprocess, estimate: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        return self_supervised_similarity(
            embed, params, context[estimate], images, preprocess=preprocess
        )

    return apply
