"""ImageReward: how people would rate an image for its prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.embeddings import Apply, Preprocess

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the network's output on the publishers' images (THUDM/ImageReward, `ImageReward.py`)."""

Network = Callable[[PyTree, Array, Array], Array]
"""`(params, preprocessed images [n,h,w,3], tokens [n, length]) -> [n, features]` float32."""


def image_reward(
    name: str,
    network: Network,
    params: PyTree,
    weight: Array,
    bias: Array,
    *,
    preprocess: Preprocess,
    text: str = "image_reward_tokens",
) -> Verifier:
    """The reward that people's rankings taught, of mean 0 and standard deviation 1 on average.

    Args:
        name: the column it has in records.
        network: images and tokens to features; the same function object each time, as of
            `preprocess`.
        params: its weights.
        weight: [features] of the head.
        bias: [] of the head.
        preprocess: what stands before it.
        text: the entry of the context that holds the prompts' tokens [n, length].

    Returns:
        A verifier that needs `text`.

    Reference:
        Xu, Liu, Wu et al., *ImageReward: learning and evaluating human preferences for
        text-to-image generation*, 2023, https://arxiv.org/abs/2304.05977.
    """
    weights = {"network": params, "weight": weight, "bias": bias}
    return Verifier(
        name=name, apply=_apply(network, preprocess, text), needs=(text,), params=weights
    )


@functools.cache
def _apply(network: Network, preprocess: Preprocess, text: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        features = network(params["network"], preprocess(images), context[text])
        # A sum and no matrix product, which accelerators round to fewer digits.
        reward = jnp.sum(features * params["weight"][None], axis=-1) + params["bias"]
        return (reward - MEAN) / STD

    return apply
