"""CLIPScore: how well an image fits its prompt, by the angle between their embeddings."""

from __future__ import annotations

import functools
from typing import Literal

import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.embeddings import Apply, Embed, Preprocess, cosine

PREFIX = "A photo depicts "
"""What stands before a prompt under `"clip_score"` (Hessel et al. 2021, section 3)."""
_WEIGHT = 2.5  # there, equation 1

Form = Literal["cosine", "clip_score"]


def clip_text(prompt: str, form: Form) -> str:
    """What CLIP is told of a prompt.

    Raises:
        ValueError: if the form is unknown.
    """
    return f"{PREFIX if _checked(form) == 'clip_score' else ''}{prompt}"


def clip_score(
    name: str,
    embed: Embed,
    params: PyTree,
    *,
    preprocess: Preprocess,
    form: Form = "cosine",
    text: str = "clip_text",
) -> Verifier:
    """How well an image fits its prompt, by CLIP or any network of its kind.

    Args:
        name: the column it has in records.
        embed: images to embeddings. Pass the same function object each time, and of `preprocess`
            too: another one is compiled anew.
        params: its weights.
        preprocess: what stands before it.
        form: `"cosine"`, in [-1, 1], as Ramesh & Mardani 2025 take it; or `"clip_score"`, `2.5 *
            max(cosine, 0)`, in [0, 2.5] (Hessel et al. 2021, equation 1), as Ma et al. 2025 do, for
            prompts with `PREFIX` before them.
        text: the entry of the context that holds the prompts' embeddings [n, features], of any
            length, made of `clip_text`.

    Returns:
        A verifier that needs `text`. Under `"clip_score"` its gradient is zero where the cosine is
        negative.

    Raises:
        ValueError: if the form is unknown.

    References:
        Hessel, Holtzman, Forbes, Le Bras, Choi, *CLIPScore: a reference-free evaluation metric for
        image captioning*, 2021, https://arxiv.org/abs/2104.08718; Ramesh, Mardani, *Test-time
        scaling of diffusion models via noise trajectory search*, 2025; Ma, Tong, Jia et al.,
        *Inference-time scaling for diffusion models beyond scaling denoising steps*, 2025.
    """
    apply = _apply(embed, preprocess, _checked(form), text)
    return Verifier(name=name, apply=apply, needs=(text,), params=params)


@functools.cache
def _apply(embed: Embed, preprocess: Preprocess, form: Form, text: str) -> Apply:
    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        found = cosine(embed(params, preprocess(images)), context[text])
        return found if form == "cosine" else _WEIGHT * jnp.maximum(found, 0.0)

    return apply


def _checked(form: Form) -> Form:
    if form not in ("cosine", "clip_score"):
        raise ValueError(f"form is {form!r}: it must be 'cosine' or 'clip_score'")
    return form
