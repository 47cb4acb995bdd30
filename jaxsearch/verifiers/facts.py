"""What can be said of a verifier before its weights are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

Factory = TypeVar("Factory", bound=Callable[..., Any])


class Facts(NamedTuple):
    """What users choose a verifier by."""

    range: tuple[float, float]
    """The least and the largest score under any settings; infinite where there is none."""
    gradient: Literal["yes", "path=float", "form=graded", "no"]
    """Whether its scores can be differentiated by the image; under which setting."""
    needs: tuple[Literal["estimate", "label", "prompt"], ...] = ()
    """What it reads beside the pixels."""
    weights: str = ""
    """The checkpoint, or one of many; empty where there are no weights, or the package has them."""
    licence: str = ""
    """Of the weights."""


_FACTS: dict[Callable[..., Any], Facts] = {}


def facts(found: Facts) -> Callable[[Factory], Factory]:
    """Marks a factory of verifiers with its facts, which stand above it in its file."""

    def mark(factory: Factory) -> Factory:
        _FACTS[factory] = found
        return factory

    return mark


def facts_of(factory: Callable[..., Any]) -> Facts:
    """The facts of a factory.

    Raises:
        KeyError: if it is marked with none.
    """
    return _FACTS[factory]
