"""Classification by the names of classes: which of them an image's embedding points to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.classifier import asked_for
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess, unit

TEMPLATES = ("a photo of a {}.",)
"""What a class is called in; several templates are an ensemble (Radford et al. 2021, 3.1.4)."""

_LOGIT_SCALE = float(np.log(100.0))

Score = Literal["cosine", "probability"]


def class_embeddings(
    encode: Callable[[Sequence[str]], Array],
    classes: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
) -> Array:
    """The direction of each class: the mean of its texts' unit embeddings, of length one again.

    Args:
        encode: texts to embeddings [texts, features]; it is called once per class, on the host.
        classes: their names, in the order of their numbers.
        templates: each with one `{}` where the name goes.

    Returns:
        [classes, features] float32.

    Raises:
        ValueError: if there is no class or no template, or a template has no place for a name.

    Reference:
        Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
        supervision*, 2021, section 3.1.4, https://arxiv.org/abs/2103.00020.
    """
    if not classes or not templates:
        raise ValueError(f"{'templates' if classes else 'classes'} is empty: give at least one")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r} must have one {{}} where the name goes")
    rows = []
    for name in classes:
        # Not `format`, for which other braces of a name or template would mean something.
        texts = [template.replace("{}", name) for template in templates]
        rows.append(unit(jnp.mean(unit(encode(texts)), axis=0)))
    return jnp.stack(rows)


def zero_shot(
    name: str,
    embed: Embed,
    params: PyTree,
    classes: Array,
    *,
    preprocess: Preprocess,
    score: Score = "cosine",
    logit_scale: Array | float = _LOGIT_SCALE,
    label: str = "label",
) -> Verifier:
    """How much an image looks like the class that was asked for, to CLIP or its kind.

    Args:
        name: the column it has in records.
        embed: images to embeddings; the same function object each time, as of `preprocess`.
        params: its weights.
        classes: [classes, features], from `class_embeddings`.
        preprocess: what stands before it.
        score: `"cosine"` with the class, in [-1, 1], as Ma et al. 2025 take it; or its
            `"probability"` among all classes, in [0, 1].
        logit_scale: the network's own: the softmax is of `exp(logit_scale) * cosine`. CLIP's
            training kept it at log 100 at most, which the published ones have reached.
        label: the entry of the context that holds the class, int32 [n], from 0.

    Returns:
        A verifier that needs `label`.

    Raises:
        ValueError: if the score is unknown, or the scale no finite number.
    """
    if score not in ("cosine", "probability"):
        raise ValueError(f"score is {score!r}: it must be 'cosine' or 'probability'")
    check_range("logit_scale", logit_scale)
    weights = {
        "network": params,
        "classes": jnp.asarray(classes, jnp.float32),
        "logit_scale": jnp.asarray(logit_scale, jnp.float32),
    }
    apply = _apply(embed, preprocess, score, label)
    return Verifier(name=name, apply=apply, needs=(label,), num_labels=len(classes), params=weights)


@functools.cache
def _apply(embed: Embed, preprocess: Preprocess, score: Score, label: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        features = unit(embed(params["network"], preprocess(images)))
        # Accelerators would round the products to fewer digits than candidates differ by.
        cosines = jnp.matmul(features, unit(params["classes"]).T, precision="highest")
        every = jax.nn.softmax(jnp.exp(params["logit_scale"]) * cosines, axis=-1)
        return asked_for(cosines if score == "cosine" else every, context[label])

    return apply
