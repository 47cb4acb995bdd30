"""Configs of networks as JSON: every entry there, none unknown, each of its type."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")

LARGEST_SIDE = 1024
"""The largest side of a latent that a config may say: its positions still fit in memory."""
MOST_BLOCKS = 100
"""The most blocks of a level that a config may ask for, where each is built for itself."""


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file in UTF-8, whatever the machine's own encoding is.

    Raises:
        ValueError: if it cannot be read, or is in another encoding. The message names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # with or without its mark
    except OSError as error:
        raise ValueError(f"cannot read {path}: {os.strerror(error.errno or 0).lower()}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: it is no text in UTF-8 ({error.reason})") from error


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        ValueError: if it cannot be read or holds something else. The message names it.
    """
    text = read_text(path)
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: it is no JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ValueError(f"cannot read {path}: it holds no entries")
    return raw


def to_json(config: Any) -> dict[str, Any]:
    """A config (a dataclass) as plain entries."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(kind: type[Config], raw: Mapping[str, Any], source: str | os.PathLike[str]) -> Any:
    """A config of plain numbers, texts and lists of them, from its entries.

    Args:
        kind: a dataclass. Nothing is taken from its defaults: every field has its entry.
        raw: the entries.
        source: where they are from, for messages.

    Raises:
        ValueError: if an entry is missing, unknown, or of another type. The message names it.
    """
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in fields:
        if name not in raw:
            raise ValueError(f"{source} has no entry {name!r}, which {kind.__name__} needs")
    for name, value in raw.items():
        if name not in fields:
            raise ValueError(f"{source} has an entry {name!r}, which {kind.__name__} does not know")
        if not _fits(value, hints[name]):
            raise ValueError(f"{source}: {name} is {value!r}, which {kind.__name__} cannot have")
    return kind(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    )


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(one, arguments[0]) for one in value)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint
