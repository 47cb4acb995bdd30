"""From a sweep's file to its points: one resolved config for each combination of the grid."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxsearch.core.checks import check_count
from jaxsearch.runs.arguments import Request, resolve
from jaxsearch.runs.config import KINDS, Config, normalise, overlay, read_yaml
from jaxsearch.runs.errors import UserError, explained, unknown
from jaxsearch.runs.settings import check_seed

KEEP = ("recipes", "images", "curves")
"""What a record may hold beside scores and costs."""

_ENTRIES = {"grid": {}, "unit_prompts": 64, "keep": ["recipes", "images"]}


class Point(NamedTuple):
    """One combination of a grid."""

    varied: dict[str, Any]  # what the grid says of it, by entry
    config: Config
    free: str | None  # the searcher's setting that the budget is to choose


class Sweep(NamedTuple):
    """What a sweep's file asks for."""

    points: tuple[Point, ...]
    unit_prompts: int  # the most prompts that are searched at once
    keep: tuple[str, ...]


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep's file: entries of a config file, and `grid`, `unit_prompts` and `keep`.

    `grid` has a list of alternatives for each of its entries, which are those of a config file
    (`seed`, `searcher`, `prompts`) and settings by their dotted names (`solver.churn`). A list of
    such grids stands for all of their combinations.

    Raises:
        UserError: if it makes no sense; the message says of which combination.
    """
    raw = read_yaml(path)
    own = {key: raw.pop(key, default) for key, default in _ENTRIES.items()}
    with explained(f"{path}: unit_prompts"):
        check_count("unit_prompts", own["unit_prompts"])
    keep = own["keep"] if isinstance(own["keep"], list) else [own["keep"]]
    for name in keep:
        if name not in KEEP:
            raise unknown(f"{path}: keep has an unknown entry", str(name), KEEP)
    below = normalise(raw, path)
    resolver = _Resolver()
    points: dict[tuple[Any, ...], Point] = {}
    for varied in _combinations(own["grid"], path):
        above = normalise(_nested(varied, path), path)
        try:
            request = resolver(overlay(below, above))
        except UserError as error:
            where = ", ".join(f"{key}={_brief(value)}" for key, value in varied.items())
            raise UserError(f"{error} (at {where})" if where else str(error)) from error
        point = Point(varied, request.config, request.free)
        # Two grids may have a combination in common. Equal prompts are one object.
        told = _canonical(varied)
        same = (*program_of(point), point.config.seed, id(point.config.prompts), told)
        points.setdefault(same, point)
    return Sweep(
        tuple(points.values()), own["unit_prompts"], tuple(name for name in KEEP if name in keep)
    )


def _combinations(grid: Any, path: Path) -> Iterator[dict[str, Any]]:
    for one in grid if isinstance(grid, list) else [grid]:
        if not isinstance(one, Mapping):
            raise UserError(f"{path}: grid is {one!r}: write 'grid: {{seed: [0, 1], ...}}'")
        for key, values in one.items():
            if not isinstance(values, list) or not values:
                raise UserError(
                    f"{path}: {key} in the grid is {values!r}: give a list of alternatives, such "
                    "as [0, 1]"
                )
        for combination in itertools.product(*one.values()):
            yield dict(zip(map(str, one), combination, strict=True))


def _nested(varied: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Entries of a config file: whole parts first, then settings of them by dotted names."""
    nested: dict[str, Any] = {}
    for key in sorted(varied, key=lambda key: "." in key):
        *parents, name = key.split(".")
        value = varied[key]
        if not parents:
            named = key in KINDS and isinstance(value, str)
            nested[key] = {"name": value} if named else copy.deepcopy(value)
            continue
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UserError(f"{path}: {key} in the grid is no entry of a config file")
        inner[name] = value
    return nested


class _Resolver:
    """Resolves configs; those that differ in the seed alone are resolved once."""

    def __init__(self) -> None:
        self._known: dict[str, Request] = {}
        self._prompts: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __call__(self, raw: dict[str, Any]) -> Request:
        rest = {key: value for key, value in raw.items() if key != "seed"}
        known = self._known.get(_canonical(rest))
        if known is None:
            known = resolve(rest, "sweep")
            prompts = self._prompts.setdefault(known.config.prompts, known.config.prompts)
            known = known._replace(config=dataclasses.replace(known.config, prompts=prompts))
            self._known[_canonical(rest)] = known
        if "seed" not in raw:
            return known
        check_seed(raw["seed"])
        return known._replace(config=dataclasses.replace(known.config, seed=raw["seed"]))


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except TypeError as error:  # keys that are no texts
        raise UserError(f"{value!r} has a setting whose name is no text") from error


def program_of(point: Point) -> tuple[str, str]:
    """What names the model and verifiers of a point, and what all of it but seed and prompts."""
    config = point.config
    given = config.to_dict()
    heavy = [given[key] for key in ("model", "guide", "report", "verifiers")]
    for key in ("seed", "prompts"):
        del given[key]
    return _canonical(heavy), _canonical([given, point.free])


def _brief(value: Any) -> str:
    if isinstance(value, dict):  # a part with its settings
        settings = ", ".join(f"{k}={_brief(v)}" for k, v in value.items() if k != "name")
        return f"{value.get('name', '')}({settings})"
    text = value if isinstance(value, str) else _canonical(value)
    return text if len(text) <= 60 else text[:57] + "..."


def label(varied: Mapping[str, Any]) -> str:
    """A combination in one line."""
    return " ".join(f"{key}={_brief(value)}" for key, value in varied.items())
