"""The parts that a run is put together from: found by name, their settings read from signatures.

A factory's keyword-only arguments are its settings: their annotations are the types, their defaults
the defaults, the `Args:` section of its docstring the help. So a new searcher, solver or verifier
needs nothing here.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import docstring_parser

from jaxsearch.core.aggregate import AGGREGATES
from jaxsearch.core.process import SCHEDULES
from jaxsearch.core.value import VALUES
from jaxsearch.runs import graders
from jaxsearch.runs.errors import explained, unknown
from jaxsearch.runs.graders import GRADERS
from jaxsearch.searchers import SEARCHERS
from jaxsearch.solvers import SOLVERS
from jaxsearch.verifiers import VERIFIERS
from jaxsearch.verifiers.facts import facts_of
from jaxsearch.zoo import MODELS, ModelEntry, entry
from jaxsearch.zoo.verifiers import PUBLISHED

Factory = Callable[..., Any]


class Setting(NamedTuple):
    """One setting of a factory."""

    type: Any
    default: Any
    help: str


def settings_of(factory: Factory) -> dict[str, Setting]:
    """The settings of a factory by name."""
    hints = typing.get_type_hints(factory)
    parsed = docstring_parser.parse(factory.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    described = {
        param.arg_name: " ".join((param.description or "").split()) for param in parsed.params
    }
    return {
        name: Setting(_written(hints[name]), parameter.default, described.get(name, ""))
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _written(hint: Any) -> Any:
    """A type without those of its alternatives that only Python can pass, such as functions."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    of_python = [
        one
        for one in typing.get_args(hint)
        if isinstance(one, type) and one.__module__ != "builtins"
    ]
    if not of_python:
        return hint
    kept = tuple(one for one in typing.get_args(hint) if one not in of_python)
    return typing.Union[kept]  # noqa: UP007


def summary_of(factory: Factory) -> str:
    """The first line of a factory's docstring."""
    return (inspect.getdoc(factory) or "").split("\n")[0]


def model_entry(name: str) -> ModelEntry:
    """The entry of a model: one that has a name, or a checkpoint's folder.

    Raises:
        UserError: if there is none of that name, or the folder holds none.
    """
    try:
        with explained(name):
            return entry(name)
    except KeyError:
        raise unknown("unknown model", name, MODELS) from None


def registry(kind: str, model: str) -> Mapping[str, Factory]:
    """The factories of "model", "solver", "schedule", "searcher", "value", "aggregate"
    or "verifier", by name."""
    if kind == "model":
        return {name: model_entry(name).load for name in MODELS}
    if kind == "verifier":
        return {**VERIFIERS, **PUBLISHED, **GRADERS, **model_entry(model).verifiers}
    registries: dict[str, Any] = {
        "solver": SOLVERS,
        "schedule": SCHEDULES,
        "searcher": SEARCHERS,
        "value": VALUES,
        "aggregate": AGGREGATES,
    }
    return registries[kind]


def factory_of(kind: str, name: str, model: str) -> Factory:
    """One factory.

    Raises:
        UserError: if there is none of that name.
    """
    if kind == "model":
        return model_entry(name).load
    if kind == "verifier" and graders.is_grader(name):
        with explained(name):
            return graders.factory_of(name)
    factories = registry(kind, model)
    if name not in factories:
        raise unknown(f"unknown {kind}", name, factories)
    return factories[name]


def build(kind: str, name: str, settings: Mapping[str, Any], model: str, *args: Any) -> Any:
    """What a factory makes of its settings.

    Raises:
        UserError: if it refuses them.
    """
    with explained(name):
        return factory_of(kind, name, model)(*args, **settings)


class Line(NamedTuple):
    """What `jaxsearch list` says of one part."""

    text: str
    facts: tuple[str, ...] = ()  # of a verifier, as those of `FACTS`


FACTS = ("score", "gradient", "needs", "weights", "licence")
"""What is said of a verifier beside its line."""


def catalogue(kinds: Sequence[str]) -> dict[str, dict[str, Line]]:
    """One line on everything there is, by kind ("searchers", "verifiers", "models", "solvers")."""
    found: dict[str, dict[str, Line]] = {}
    for kind in kinds:
        if kind == "verifiers":
            shared: dict[str, Factory] = {**VERIFIERS, **PUBLISHED, **GRADERS}
            lines = {name: Line(summary_of(make), _facts(make)) for name, make in shared.items()}
            for model in MODELS:
                for name, make in model_entry(model).verifiers.items():
                    lines[name] = Line(f"{summary_of(make)} (of the model {model})", _facts(make))
        else:
            singular = kind.removesuffix("s")
            lines = {name: Line(summary_of(make)) for name, make in registry(singular, "").items()}
        found[kind] = dict(sorted(lines.items()))
    return found


def _facts(factory: Factory) -> tuple[str, ...]:
    found = facts_of(factory)
    low, high = found.range
    score = "any" if math.isinf(high) else f"{low:g} to {high:g}"
    needs = ("pixels", *found.needs)
    return (score, found.gradient, ", ".join(needs), found.weights, found.licence)
