"""The report of a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from jaxsearch.reports.decisions import Decisions, decisions_of
from jaxsearch.reports.figures import (
    branches,
    curves_figure,
    rounds_figure,
    steps_figure,
    tree_figure,
)
from jaxsearch.reports.page import Column, Table, render
from jaxsearch.reports.pictures import picture_from, picture_in, side_for
from jaxsearch.runs.arguments import resolve_file
from jaxsearch.runs.config import Config, read_resolved
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import read_json, read_text
from jaxsearch.runs.folder import RunFolder, existing
from jaxsearch.runs.images import decimals_for, image_name
from jaxsearch.runs.plots import curves_from
from jaxsearch.runs.recipes import read_recipes

DEFAULT_PATHS = 3
_MOST_SECONDS = 60.0  # of a search that is carried out once more without being asked for
_COSTS = {
    "network_passes": "network passes",
    "backward_passes": "backward passes",
    "solver_steps_papers_nfe": "solver steps (the papers' NFE)",
    "decodes": "decodes",
    "verifier_calls": "verifier calls",
}
Say = Callable[[str], None]


class _Run(NamedTuple):
    """What a run folder holds."""

    folder: RunFolder
    config: Config
    records: list[dict[str, Any]]
    summary: dict[str, Any]
    versions: dict[str, Any]

    @property
    def score(self) -> str:
        """The name of what was searched for."""
        return " + ".join(part.name for part in self.config.guide)


def report_run(path: Path, paths: int | None, say: Say) -> str:
    """The page of a finished run.

    Args:
        path: its folder.
        paths: prompts whose decisions are shown, for which the search is carried out once more;
            None takes a few where that is short and the model is there, or none.
        say: tells the user something.

    Raises:
        UserError: if the run is not finished or a file of it is damaged.
    """
    run = _read(path)
    seconds = run.summary["seconds"].get("search", 0.0)
    searched: list[Decisions] = []
    missing = ""
    asked = [part.name for part in run.config.guide if part.name in run.config.graders]
    if asked:
        missing = (
            f"the search was guided by {asked[0]}, which would have to be asked once more about "
            "every candidate"
        )
        if paths:
            raise UserError(f"{path} has no decisions to show: {missing}; leave --paths out")
        paths = 0
    elif paths is None and seconds > _MOST_SECONDS:
        paths = 0
        missing = (
            f"the search took {seconds:,.0f} seconds, and to show this it is carried out once "
            f"more; jaxsearch report --paths {DEFAULT_PATHS} does so"
        )
    places = _chosen(run.records, DEFAULT_PATHS if paths is None else paths)
    if places:
        say(
            f"searching once more, to show how {len(places)} prompts were decided: it took "
            f"{seconds:.1f} s and the time to compile (--paths 0 leaves it out)"
        )
        try:
            noise, legs = read_recipes(run.folder.recipes)
            searched = decisions_of(resolve_file(run.folder.config).config, noise, legs, places)
        except UserError as error:
            if paths is not None:
                raise
            missing = str(error)
            say(f"warning: the report has no decisions: {error}")
    name = f"{run.config.searcher.name} on {Path(run.config.model.name).name}"
    return render(
        "run.html",
        f"{name}: {len(run.records)} prompts",
        heading=name,
        run=run,
        costs=_costs(run.summary),
        graders=_questions(run.summary),
        curve=curves_figure(_curves(run.folder), run.score),
        table=_table(run),
        decisions=[_shown(run, place, one) for place, one in zip(places, searched, strict=False)],
        missing=missing,
        settings=run.config.to_yaml(),
        replay=f"jaxsearch replay {shlex.quote(str(path))}",
    )


def _read(path: Path) -> _Run:
    folder = existing(path)
    if not folder.summary.is_file():
        raise UserError(
            f"{path} holds an unfinished run: go on with `jaxsearch search --resume {path}`"
        )
    config = read_resolved(folder.config)
    records = []
    for number, line in enumerate(read_text(folder.records, "the records").splitlines(), 1):
        try:
            record = json.loads(line)
            for entry in record["scores"].values():
                entry["role"], entry["plain"], entry["found"]
            record["prompt"], record["cost"]["network_passes"], record["seconds"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder.records} is damaged at line {number}: it is no record"
            ) from error
        records.append(record)
    if len(records) != len(config.prompts):
        raise UserError(
            f"{folder.records} is damaged: it has {len(records)} of {len(config.prompts)} records"
        )
    versions = read_json(folder.versions, "the versions") if folder.versions.exists() else {}
    return _Run(folder, config, records, _summary(folder), versions)


def _summary(folder: RunFolder) -> dict[str, Any]:
    summary = read_json(folder.summary, "the summary")
    wanted = ("scores", "cost_per_prompt", "plain_cost_per_prompt", "cost_total", "seconds")
    for key in wanted:
        if not isinstance(summary.get(key), dict):
            raise UserError(f"{folder.summary} is damaged: it has no {key}")
    try:
        for entry in summary["scores"].values():
            entry["role"], [entry[part]["mean"] for part in ("plain", "found", "gain")]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder.summary} is damaged: a verifier lacks its means") from error
    return summary


def _curves(folder: RunFolder) -> dict[str, Any]:
    path = folder.curve.with_suffix(".json")
    try:
        return curves_from(read_json(path, "the curves"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it holds no curves") from error


def _gain(entry: Mapping[str, Any]) -> float | None:
    plain, found = entry["plain"], entry["found"]
    return None if plain is None or found is None else found - plain


def _chosen(records: Sequence[Mapping[str, Any]], wanted: int) -> list[int]:
    """Places of prompts from the largest gain to the smallest, evenly."""

    def total(place: int) -> float:
        entries = [one for one in records[place]["scores"].values() if one["role"] == "guide"]
        gains = [_gain(entry) for entry in entries]
        return sum(-np.inf if gain is None else gain for gain in gains)

    order = sorted(range(len(records)), key=total, reverse=True)
    among = np.linspace(0, len(order) - 1, min(wanted, len(order))).round().astype(int)
    return [order[place] for place in among]


def _table(run: _Run) -> Table:
    columns = [Column("number", "number"), Column("prompt", "text")]
    columns += [Column("plain", "picture", "pictures"), Column("found", "picture", "pictures")]
    names = list(run.records[0]["scores"])
    decimals = {name: _decimals([one["scores"][name] for one in run.records]) for name in names}
    for name in names:
        role = run.records[0]["scores"][name]["role"]
        group = f"{name} ({role})"
        for part, kind in (("plain", "number"), ("found", "number"), ("gain", "gain")):
            columns.append(Column(part, kind, group, decimals[name]))
    columns.append(Column("network passes", "number"))
    side = side_for(2 * len(run.records))
    rows = []
    for place, record in enumerate(run.records):
        row = [place + 1, record["prompt"]]
        row += [
            picture_in(run.folder.images / image_name(kind, place), side)
            for kind in ("plain", "found")
        ]
        for name in names:
            entry = record["scores"][name]
            row += [entry["plain"], entry["found"], _gain(entry)]
        rows.append([*row, record["cost"]["network_passes"]])
    return Table("pictures", "Plain samples beside found ones", tuple(columns), rows)


def _decimals(entries: Sequence[Mapping[str, Any]]) -> int:
    values = [entry[key] for entry in entries for key in ("plain", "found")]
    known = [value for value in values if value is not None]
    return max(decimals_for(np.asarray(known, np.float64)), 3)


def _questions(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What was asked of each grader."""
    graders = summary.get("graders")
    return list(graders.items()) if isinstance(graders, dict) else []


def _costs(summary: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """What was spent: of a plain sample, of a prompt, of all."""
    plain, each, total = (
        summary[key] for key in ("plain_cost_per_prompt", "cost_per_prompt", "cost_total")
    )
    return [
        (name, plain.get(key, 0), each.get(key, 0), total.get(key, 0))
        for key, name in _COSTS.items()
        if total.get(key) or key != "backward_passes"
    ]


class _Step(NamedTuple):
    """A solver step on the way of a prompt's samples."""

    plain: str  # address of a picture, or nothing
    found: str
    scores: list[tuple[float | None, float | None]]  # by verifier: plain, found
    tried: int  # candidates that ended here
    won: tuple[int, int] | None  # round and number, from 1, of the one that led to the found sample


class _Shown(NamedTuple):
    """The decisions of a prompt as a page shows them."""

    place: int
    prompt: str
    same: bool
    verifiers: list[str]
    decimals: list[int]
    steps: list[_Step]
    candidates: int
    rounds: Markup
    by_step: Markup | None  # of a search that acts on the way
    tree: Markup | None  # where several partial samples were gone on from


def _shown(run: _Run, place: int, one: Decisions) -> _Shown:
    record = run.records[place]
    names, tree = list(record["scores"]), one.tree
    side = side_for(2 * len(one.found.taken))
    aggregated = run.config.aggregate.name == "total"
    guides = [entry["plain"] for entry in record["scores"].values() if entry["role"] == "guide"]
    plain = sum(np.nan if value is None else value for value in guides) if aggregated else np.nan
    score = run.score if aggregated else f"{run.config.aggregate.name} of {run.score}"
    num_steps = len(one.found.taken)
    partial = bool(np.any(tree.end < num_steps))
    return _Shown(
        place,
        record["prompt"],
        one.same,
        names,
        [max(_decimals([record["scores"][name]]), 3) for name in names],
        [_step(one, step, len(names), side) for step in range(num_steps)],
        len(tree.score),
        rounds_figure(f"rounds-{place}", tree, plain, score),
        steps_figure(f"steps-{place}", tree, score) if partial else None,
        tree_figure(f"tree-{place}", tree, score) if partial and branches(tree) else None,
    )


def _step(one: Decisions, step: int, num_verifiers: int, side: int) -> _Step:
    tree = one.tree
    here = tree.end == step + 1
    winners = np.flatnonzero(here & tree.won)
    won = None
    if len(winners):
        won = (int(tree.round[winners[0]]) + 1, int(tree.number[winners[0]]) + 1)

    def score(way: Any, verifier: int) -> float | None:
        value = float(way.scores[step, verifier])
        return value if way.taken[step] and np.isfinite(value) else None

    def picture(way: Any) -> str:
        return picture_from(way.images[step], side) if way.taken[step] else ""

    return _Step(
        picture(one.plain),
        picture(one.found),
        [(score(one.plain, i), score(one.found, i)) for i in range(num_verifiers)],
        int(np.count_nonzero(here)),
        won,
    )
