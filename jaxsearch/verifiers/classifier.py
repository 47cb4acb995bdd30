"""Classifiers as verifiers: how sure is a network that an image shows what was asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier


def classifier_probability(
    name: str,
    logits_apply: Callable[[PyTree, Array], Array],
    params: PyTree,
    *,
    num_labels: int | None = None,
    label: str = "label",
) -> Verifier:
    """The softmax probability of the class that was asked for, in [0, 1].

    Args:
        name: the column it has in records.
        logits_apply: `(params, images [n,h,w,c] float32 in [0,1]) -> logits [n, classes]`, with the
            classifier's own preprocessing inside. Pass the same function object each time:
            another one is compiled anew.
        params: weights of the classifier.
        num_labels: how many classes there are, so that others are refused before a run.
        label: the entry of the context that holds the class, int32 [n], from 0.

    Returns:
        A verifier that needs `label`.
    """

    return Verifier(
        name=name,
        apply=_probability(logits_apply, label),
        needs=(label,),
        num_labels=num_labels,
        params=params,
    )


@functools.cache
def _probability(
    logits_apply: Callable[[PyTree, Array], Array], label: str
) -> Callable[[PyTree, Array, dict[str, Array]], Array]:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        probabilities = jax.nn.softmax(logits_apply(params, images), axis=-1)
        return asked_for(probabilities, context[label])

    return apply


def asked_for(values: Array, label: Array) -> Array:
    """Of values by class [n, classes] those [n] of the labels [n], from 0."""
    return jnp.take_along_axis(values, label.astype(jnp.int32)[:, None], axis=-1)[:, 0]
