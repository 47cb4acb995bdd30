"""Prompts of models that are told a class, by its number or its name."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Prompts

ANY = "any"
"""The only prompt of a model that is told nothing."""


class Reading(NamedTuple):
    """How a model reads its prompts: fields of `Model`."""

    prompts: Callable[[Sequence[str]], Prompts]
    ids: Callable[[Sequence[str]], np.ndarray]


def class_prompts(num_classes: int, names: Sequence[str] = ()) -> Reading:
    """How a model of `num_classes` classes, or of none, reads its prompts.

    The condition is the class [P] int32, and so is `context["label"]`; of a model that is told
    nothing the condition is zeros and there is no context. The id of a prompt is its class and how
    often that was asked for before.

    Args:
        num_classes: 0 for a model that is told nothing.
        names: of the classes in their order, if there are any; each may list several, with commas.
            A number stands for its class even where another one is named so.
    """
    numbers = {str(number): number for number in range(num_classes)}
    named: dict[str, set[int]] = collections.defaultdict(set)
    for number, name in enumerate(names):
        for one in (name, *name.split(",")):
            named[one.strip().lower()].add(number)

    def label(text: str) -> int:
        asked = text.strip().lower()
        if not num_classes and asked == ANY:
            return 0
        if asked in numbers:
            return numbers[asked]
        found = sorted(named.get(asked, ()))
        if len(found) > 1:
            classes = " and ".join(map(str, found))
            raise ValueError(f"{text!r} is the name of the classes {classes}: take a number")
        if not found:
            raise ValueError(f"{text!r} is no prompt of this model: {_remedy()}")
        return found[0]

    def ids(texts: Sequence[str]) -> np.ndarray:
        seen: collections.Counter[int] = collections.Counter()
        found = []
        for number in map(label, texts):
            found.append(number + max(num_classes, 1) * seen[number])
            seen[number] += 1
        return np.asarray(found, np.int32)

    def prompts(texts: Sequence[str]) -> Prompts:
        cond = jnp.asarray(np.asarray([label(text) for text in texts], np.int32))
        context = {"label": cond} if num_classes else {}
        return Prompts(jnp.asarray(ids(texts)), cond, context)

    def _remedy() -> str:
        if not num_classes:
            return f"it is told nothing, so ask for {ANY!r}"
        name = " or the name of a class" if names else ""
        return f"take a number from 0 to {num_classes - 1}{name}"

    return Reading(prompts, ids)


def split_numbers(text: str) -> list[str]:
    """`"3, 7"` -> `["3", "7"]`; names, which may have commas, are left whole."""
    parts = [part for part in re.split(r"[\s,]+", text) if part]
    return parts if parts and all(part.isdecimal() for part in parts) else [text]
