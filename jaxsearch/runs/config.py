"""The resolved config of a run: everything that decides its result, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxsearch.runs.components import model_entry
from jaxsearch.runs.errors import UserError, unknown
from jaxsearch.runs.files import read_text
from jaxsearch.runs.graders import is_grader
from jaxsearch.runs.prompt_files import Prompt, check_metadata, read_prompts
from jaxsearch.zoo import located

KINDS = ("model", "solver", "schedule", "searcher", "value", "aggregate")
"""The parts of which a run has one each: `{name: ..., setting: ...}` in a config file."""

_LISTS = ("guide", "report", "prompts")
_NUMBERS = ("num_prompts", "seed", "budget", "threshold", "microbatch", "grader_fraction")
_DEFAULTS: dict[str, Any] = {
    "model": {"name": "digits"},
    "searcher": {"name": "epsilon_greedy"},
    "aggregate": {"name": "total"},
    "num_prompts": None,
    "seed": 0,
    "budget": None,
    "threshold": None,
    "microbatch": None,
    "grader_fraction": 1.0,
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
    metadata: tuple[Mapping[str, Any] | None, ...] = ()
    """[P] What files said of the prompts beside them; nothing where none said anything."""
    grader_fraction: float = 1.0
    """Of a round's candidates of a prompt, the part that guiding graders are asked about."""

    @property
    def graders(self) -> tuple[str, ...]:
        """The names of verifiers that are asked on the host, guides first."""
        return tuple(part.name for part in self.guide + self.report if is_grader(part.name))

    def to_dict(self) -> dict[str, Any]:
        """The form it has in a config file; `jaxsearch search --config` takes it."""
        verifiers = {part.name: part.settings for part in self.guide + self.report if part.settings}
        # Where there is none, configs are those of versions that knew none.
        graders = {"grader_fraction": self.grader_fraction} if self.graders else {}
        return {
            **{kind: getattr(self, kind).to_dict() for kind in KINDS},
            "guide": [part.name for part in self.guide],
            "report": [part.name for part in self.report],
            "verifiers": verifiers,
            "prompts": self._entries(),
            "seed": self.seed,
            "budget": self.budget,
            "threshold": self.threshold,
            "microbatch": self.microbatch,
            **graders,
        }

    def _entries(self) -> list[str | dict[str, Any]]:
        metadata = self.metadata or (None,) * len(self.prompts)
        return [_entry(*one) for one in zip(self.prompts, metadata, strict=True)]

    def to_yaml(self) -> str:
        """The text of a config file."""
        how: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 100}
        return yaml.dump(self.to_dict(), Dumper=_InFull, **how)


class _InFull(yaml.SafeDumper):
    """Writes what is there twice, such as a repeated prompt's metadata, twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _entry(prompt: str, metadata: Mapping[str, Any] | None) -> str | dict[str, Any]:
    """A prompt as a config file has it."""
    if metadata:
        return {"prompt": prompt, "metadata": metadata}
    return {"prompt": prompt} if prompt.startswith("@") else prompt  # which is not read as a file


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
        rest |= {key: raw[key] for key in ("grader_fraction",) if key in raw}
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
            value = _items(key, value, path)
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


def _items(key: str, value: Any, path: Path) -> list[Any]:
    """A list of names or prompts; YAML reads some of them as numbers."""
    items = value if isinstance(value, list) else [value]
    return [_item(key, item, path) for item in items]


def _item(key: str, item: Any, path: Path) -> str | Prompt:
    if key == "prompts" and isinstance(item, Mapping) and "prompt" in item:
        for name in item:
            if name not in ("prompt", "metadata"):
                raise unknown(f"{path}: a prompt has no entry", str(name), ("prompt", "metadata"))
        if (metadata := item.get("metadata")) is not None:
            check_metadata(metadata, f"{path}: a prompt")
        return Prompt(_text(key, item["prompt"], path), metadata)
    return _text(key, item, path)


def _text(key: str, item: Any, path: Path) -> str:
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise UserError(f"{path}: {key} holds {item!r}: write '{key}: [name, ...]'")
    return str(item)


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
    """A config with every part named: what is not said comes from the model's own defaults.

    Its prompts are `Prompt`s, read from their files.
    """
    model = str(overlay(_DEFAULTS, raw)["model"]["name"])
    entry = model_entry(model)
    full = overlay(overlay(_DEFAULTS, entry.defaults), raw)
    if "value" not in full:
        # Other solvers make their estimate before they inject the noise that is to be judged; tree
        # search judges by samples that it plays to their end, and would pay for more in vain.
        enough = full["solver"]["name"] == "heun" or full["searcher"]["name"] == "mcts"
        full["value"] = {"name": "solver_estimate" if enough else "lookahead"}
    # A run may be taken up or replayed from anywhere.
    full["model"] = {**full["model"], "name": located(model)}
    for key in ("guide", "report"):
        if twice := [name for name in full[key] if full[key].count(name) > 1]:
            named = f", or one of them {twice[0]}@other" if is_grader(twice[0]) else ""
            raise UserError(f"{key} names {twice[0]} twice: name each verifier once{named}")
    full["report"] = [name for name in full["report"] if name not in full["guide"]]
    if not full["guide"]:
        raise UserError("no guide: name at least one verifier to search for")
    chosen, given = full["guide"] + full["report"], raw.get("verifiers", {})
    full["verifiers"] = {  # defaults of a verifier that is not there are nobody's mistake
        name: value for name, value in full["verifiers"].items() if name in chosen or name in given
    }
    full["prompts"] = [one for given in full["prompts"] for one in _asked(given, entry.split)]
    if not full["prompts"]:
        raise UserError("no prompts: name at least one")
    return full


def _asked(given: str | Prompt, split: Callable[[str], list[str]]) -> list[Prompt]:
    """The prompts that an entry stands for: those of the file that `@file` names, or its own."""
    if isinstance(given, Prompt):
        return [given]
    if not given.startswith("@"):
        return [Prompt(text) for text in split(given)]
    found = []
    for one in read_prompts(given[1:]):
        found += [one] if one.metadata else [Prompt(text) for text in split(one.text)]
    return found


def cycled(prompts: Sequence[Prompt], num_prompts: int | None) -> tuple[Prompt, ...]:
    """The prompts, from the start again and again until there are `num_prompts`."""
    if num_prompts is None:
        return tuple(prompts)
    return tuple(itertools.islice(itertools.cycle(prompts), num_prompts))
