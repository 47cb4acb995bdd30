"""Prompts of models that are told a class, by its number or its name."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Prompts

ANY = "any"
"""The only prompt of a model that is told nothing."""


def class_prompts(
    num_classes: int, names: Sequence[str] = ()
) -> Callable[[Sequence[str]], Prompts]:
    """How a model of `num_classes` classes, or of none, reads its prompts.

    The condition is the class [P] int32, and so is `context["label"]`; of a model that is told
    nothing the condition is zeros and there is no context. The id of a prompt is its class and how
    often that was asked for before.

    Args:
        num_classes: 0 for a model that is told nothing.
        names: of the classes in their order, if there are any; each may list several, with commas.
    """
    known = {str(number): number for number in range(num_classes)}
    for number, name in enumerate(names):
        for one in (name, *name.split(",")):
            known.setdefault(one.strip().lower(), number)

    def prompts(texts: Sequence[str]) -> Prompts:
        wanted = [ANY] if not num_classes else known
        for text in texts:
            if text.strip().lower() not in wanted:
                raise ValueError(f"{text!r} is no prompt of this model: {_remedy()}")
        labels = [known.get(text.strip().lower(), 0) for text in texts]
        seen: collections.Counter[int] = collections.Counter()
        ids = []
        for label in labels:
            ids.append(label + max(num_classes, 1) * seen[label])
            seen[label] += 1
        cond = jnp.asarray(np.asarray(labels, np.int32))
        context = {"label": cond} if num_classes else {}
        return Prompts(jnp.asarray(np.asarray(ids, np.int32)), cond, context)

    def _remedy() -> str:
        if not num_classes:
            return f"it is told nothing, so ask for {ANY!r}"
        named = " or the name of a class" if names else ""
        return f"take a number from 0 to {num_classes - 1}{named}"

    return prompts


def split_numbers(text: str) -> list[str]:
    """`"3, 7"` -> `["3", "7"]`; names, which may have commas, are left whole."""
    parts = [part for part in re.split(r"[\s,]+", text) if part]
    return parts if parts and all(part.isdecimal() for part in parts) else [text]
