"""Units: some prompts of a point, searched together, with an id that says what they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxsearch.runs.graders import deciding
from jaxsearch.sweeps.grid import Sweep


class Unit(NamedTuple):
    """Prompts of one point that are searched together."""

    id: str  # 16 hexadecimal digits, from everything that decides the result
    point: int  # index
    begin: int  # place of the first prompt in the point's list
    end: int  # behind the last one
    rows: int  # prompts that its program takes; the last one fills up

    @property
    def prompts(self) -> int:
        """How many prompts it has."""
        return self.end - self.begin


def units_of(sweep: Sweep) -> tuple[Unit, ...]:
    """All units of all points, in an order that is the same for every process.

    Points may have units in common, such as those of one list of prompts that begins as another
    does: they have one id, and are searched once.

    An id hangs on the resolved config, but for what graders may cost and how long they are waited
    for, and on the prompts of the unit and those before them, which decide on its keys. So a sweep
    that is given more seeds or settings keeps the units it has, and one that is given more prompts,
    behind the others, those that are full.
    """
    found: list[Unit] = []
    # By prompts, of which equal ones are one object.
    divided: dict[tuple[int, int], list[_Part]] = {}
    for index, point in enumerate(sweep.points):
        config = point.config
        key = (id(config.prompts), id(config.metadata))
        if key not in divided:
            # The records hold the metadata, so that is in the id where there is any.
            told = (
                list(zip(config.prompts, config.metadata, strict=True))
                if config.metadata
                else config.prompts
            )
            divided[key] = _divided(told, sweep.unit_prompts)
        settings = dataclasses.replace(config, prompts=(), metadata=()).to_dict()
        settings["verifiers"] = {
            name: deciding(name, given) for name, given in settings["verifiers"].items()
        }
        text = json.dumps([settings, point.free], sort_keys=True)
        for part in divided[key]:
            identity = hashlib.sha256((text + part.digest).encode()).hexdigest()[:16]
            found.append(Unit(identity, index, part.begin, part.end, part.rows))
    return tuple(found)


class _Part(NamedTuple):
    begin: int
    end: int
    rows: int
    digest: str  # of its prompts and those before, and of the rows


def _divided(prompts: Sequence[Any], most: int) -> list[_Part]:
    rows, seen, parts = min(most, len(prompts)), hashlib.sha256(), []
    for begin in range(0, len(prompts), rows):
        own = prompts[begin : begin + rows]
        text = json.dumps([seen.hexdigest(), rows, own])
        digest = hashlib.sha256(text.encode()).hexdigest()
        parts.append(_Part(begin, begin + len(own), rows, digest))
        for prompt in own:
            seen.update(json.dumps(prompt).encode())
    return parts
