"""The resolved config of a run: everything that decides its result, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxsearch.runs.components import model_entry
from jaxsearch.runs.errors import UserError, unknown
from jaxsearch.runs.files import read_text
from jaxsearch.zoo import located

KINDS = ("model", "solver", "schedule", "searcher", "value", "aggregate")
"""The parts of which a run has one each: `{name: ..., setting: ...}` in a config file."""

_LISTS = ("guide", "report", "prompts")
_NUMBERS = ("num_prompts", "seed", "budget", "threshold", "microbatch")
_DEFAULTS: dict[str, Any] = {
    "model": {"name": "digits"},
    "searcher": {"name": "epsilon_greedy"},
    "value": {"name": "solver_estimate"},
    "aggregate": {"name": "total"},
    "num_prompts": None,
    "seed": 0,
    "budget": None,
    "threshold": None,
    "microbatch": None,
    "verifiers": {},
}


@dataclasses.dataclass(frozen=True)
class Component:
    """A part of a run: the factory's name and all of its settings."""

    name: str
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The form it has in a config file."""
        return {"name": self.name, **self.settings}


@dataclasses.dataclass(frozen=True)
class Config:
    """What is searched, how, and for which prompts."""

    model: Component
    solver: Component
    schedule: Component
    searcher: Component
    value: Component
    aggregate: Component
    guide: tuple[Component, ...]
    report: tuple[Component, ...]
    prompts: tuple[str, ...]
    seed: int
    budget: int | None
    threshold: float | None
    microbatch: int | None

    def to_dict(self) -> dict[str, Any]:
        """The form it has in a config file; `jaxsearch search --config` takes it."""
        verifiers = {part.name: part.settings for part in self.guide + self.report if part.settings}
        return {
            **{kind: getattr(self, kind).to_dict() for kind in KINDS},
            "guide": [part.name for part in self.guide],
            "report": [part.name for part in self.report],
            "verifiers": verifiers,
            "prompts": list(self.prompts),
            "seed": self.seed,
            "budget": self.budget,
            "threshold": self.threshold,
            "microbatch": self.microbatch,
        }

    def to_yaml(self) -> str:
        """The text of a config file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=100)


def read_config(path: Path) -> dict[str, Any]:
    """A config file (YAML, so JSON too), in the form that `complete` takes.

    Raises:
        UserError: if it cannot be read, is no mapping, or has an entry that does not exist.
    """
    return normalise(read_yaml(path), path)


def read_resolved(path: Path) -> Config:
    """The config that a run has written, be what it names here or not.

    Raises:
        UserError: if it cannot be read or is not whole.
    """
    raw = read_config(path)
    try:
        parts = {kind: {**raw[kind]} for kind in KINDS}
        named = {kind: Component(part.pop("name"), part) for kind, part in parts.items()}
        verifiers = {
            role: tuple(Component(name, raw["verifiers"].get(name, {})) for name in raw[role])
            for role in ("guide", "report")
        }
        rest = {key: raw[key] for key in ("seed", "budget", "threshold", "microbatch")}
        entries: dict[str, Any] = {**named, **verifiers, "prompts": tuple(raw["prompts"]), **rest}
        return Config(**entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: it is not the config of a run") from error


def read_yaml(path: Path) -> dict[Any, Any]:
    """The entries of a file.

    Raises:
        UserError: if it cannot be read or is no mapping.
    """
    text = read_text(path, "the config file")
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" at line {line + 1}"
        raise UserError(f"{path} is damaged{where}: it is not valid YAML") from error
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise UserError(f"{path} is no config file: it must hold entries such as 'seed: 3'")
    return raw


def normalise(raw: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """Entries of a config file in the form that `complete` takes.

    Raises:
        UserError: if one does not exist, or is no mapping where it must be.
    """
    result: dict[str, Any] = {}
    for key, value in raw.items():
        if key in KINDS:
            value = {"name": value} if isinstance(value, str) else value
        elif key in _LISTS:
            value = _texts(key, value, path)
        elif key not in (*_NUMBERS, "verifiers"):
            raise unknown(f"{path} has an unknown entry", str(key), [*_LISTS, *_DEFAULTS, *KINDS])
        if key in (*KINDS, "verifiers") and not isinstance(value, Mapping):
            raise UserError(f"{path}: {key} is {value!r}: write '{key}: {{...}}' with its settings")
        if key in KINDS and not isinstance(value.get("name", ""), str):
            raise UserError(
                f"{path}: the name of the {key} is {value['name']!r}: it must be a text"
            )
        result[key] = value
    return result


def _texts(key: str, value: Any, path: Path) -> list[str]:
    """A list of names or prompts; YAML reads some of them as numbers."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise UserError(f"{path}: {key} holds {item!r}: write '{key}: [name, ...]'")
    return [str(item) for item in items]


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two configs in one; `above` wins. Settings of a part go when `above` names another part."""
    result = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if key in KINDS and old and value.get("name", old.get("name")) == old.get("name"):
            value = {**old, **value}
        elif key == "verifiers":
            value = {**(old or {}), **{name: _over(old, name, value[name]) for name in value}}
        result[key] = value
    if "prompts" in above and "num_prompts" not in above:
        result["num_prompts"] = None
    return result


def _over(below: Mapping[str, Any] | None, name: str, above: Any) -> Any:
    """The settings of a verifier, over those below; what is no mapping is refused later."""
    settings = (below or {}).get(name, {})
    return {**settings, **above} if isinstance(above, Mapping) else above


def complete(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A config with every part named: what is not said comes from the model's own defaults."""
    model = str(overlay(_DEFAULTS, raw)["model"]["name"])
    entry = model_entry(model)
    full = overlay(overlay(_DEFAULTS, entry.defaults), raw)
    # A run may be taken up or replayed from anywhere.
    full["model"] = {**full["model"], "name": located(model)}
    for key in ("guide", "report"):
        if twice := [name for name in full[key] if full[key].count(name) > 1]:
            raise UserError(f"{key} names {twice[0]} twice: name each verifier once")
    full["report"] = [name for name in full["report"] if name not in full["guide"]]
    if not full["guide"]:
        raise UserError("no guide: name at least one verifier to search for")
    chosen, given = full["guide"] + full["report"], raw.get("verifiers", {})
    full["verifiers"] = {  # defaults of a verifier that is not there are nobody's mistake
        name: value for name, value in full["verifiers"].items() if name in chosen or name in given
    }
    texts = [text for one in full["prompts"] for text in _from_file(one)]
    full["prompts"] = [part for text in texts for part in entry.split(text)]
    if not full["prompts"]:
        raise UserError("no prompts: name at least one")
    return full


def _from_file(prompt: str) -> list[str]:
    """The lines of the file that `@file` names; any other prompt as it is."""
    if not prompt.startswith("@"):
        return [prompt]
    lines = read_text(Path(prompt[1:]), "the file of prompts").splitlines()
    return [line for line in map(str.strip, lines) if line]


def cycled(prompts: Sequence[str], num_prompts: int | None) -> tuple[str, ...]:
    """The prompts, from the start again and again until there are `num_prompts`."""
    if num_prompts is None:
        return tuple(prompts)
    return tuple(itertools.islice(itertools.cycle(prompts), num_prompts))
