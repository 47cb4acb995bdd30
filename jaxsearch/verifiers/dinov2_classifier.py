"""DINOv2's linear classifier as a verifier: how sure it is of a class."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.classifier import asked_for
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess

Score = Literal["logit", "probability"]


def dinov2_classifier(
    name: str,
    logits: Embed,
    params: PyTree,
    *,
    preprocess: Preprocess,
    score: Score = "logit",
    num_labels: int | None = None,
    label: str = "label",
) -> Verifier:
    """What a classifier says of the class that was asked for.

    Args:
        name: the column it has in records.
        logits: preprocessed images to logits [n, classes]; the same function object each time, as
            of `preprocess`.
        params: its weights.
        preprocess: what stands before it.
        score: the `"logit"` of the class, of any size, by which Ma et al. 2025 choose; or its
            `"probability"` among all, in [0, 1].
        num_labels: how many classes there are, so that others are refused before a run.
        label: the entry of the context that holds the class, int32 [n], from 0.

    Returns:
        A verifier that needs `label`.

    Raises:
        ValueError: if the score is unknown.

    References:
        Oquab, Darcet, Moutakanni et al., *DINOv2*, 2023, https://arxiv.org/abs/2304.07193; Ma,
        Tong, Jia et al., *Inference-time scaling for diffusion models beyond scaling denoising
        steps*, 2025, https://arxiv.org/abs/2501.09732.
    """
    if score not in ("logit", "probability"):
        raise ValueError(f"score is {score!r}: it must be 'logit' or 'probability'")
    apply = _apply(logits, preprocess, score, label)
    return Verifier(name=name, apply=apply, needs=(label,), num_labels=num_labels, params=params)


@functools.cache
def _apply(logits: Embed, preprocess: Preprocess, score: Score, label: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        every = logits(params, preprocess(images)).astype(jnp.float32)
        every = jax.nn.softmax(every, axis=-1) if score == "probability" else every
        return asked_for(every, context[label])

    return apply
