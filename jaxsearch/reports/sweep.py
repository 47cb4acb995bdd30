"""The report of a sweep, complete or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from markupsafe import Markup

from jaxsearch.reports.figures import Dot, Progress, points_figure, progress_figure
from jaxsearch.reports.page import Column, Table, render
from jaxsearch.reports.pictures import picture_of, side_for
from jaxsearch.runs.records import mean_of
from jaxsearch.searchers import FREE_SIZE
from jaxsearch.sweeps.folder import Manifest, SweepFolder, read_log, read_manifest
from jaxsearch.sweeps.grid import label
from jaxsearch.sweeps.records import columns_of, read_table
from jaxsearch.sweeps.reporting import status_of_sweep
from jaxsearch.sweeps.units import Unit

_MOST_PICTURES = 4000
_MOST_NUMBERS = 100_000
_MOST_LINES = 8  # of points in one figure, each in a colour of its own
_NAMED = ("seed", "prompt_id", "prompt", "place", "score")  # columns of records


class _Point(NamedTuple):
    """Points of a sweep that differ in their seed alone, and what was found for them."""

    number: int  # in the page, from 1
    varied: dict[str, Any]  # but the seed
    config: dict[str, Any]  # of the first of them, without prompts
    seeds: list[int]
    units: list[Unit]
    done: list[Unit]
    records: pa.Table | None  # of the units that are done, with their seeds, without pictures
    seconds: float  # per prompt

    @property
    def label(self) -> str:
        """What the grid says of them."""
        return label(self.varied) or "all"

    @property
    def verifiers(self) -> list[str]:
        """Guides first."""
        return [*self.config["guide"], *self.config["report"]]

    def numbers(self, column: str) -> np.ndarray:
        """A column of the records, nan where nothing is known."""
        if self.records is None or column not in self.records.column_names:
            return np.zeros((0,))
        return self.records[column].to_numpy().astype(np.float64)

    @property
    def network_passes(self) -> np.ndarray:
        """Of each record, backward ones too."""
        return self.numbers("network_passes") + self.numbers("backward_passes")


def report_sweep(folder: SweepFolder) -> str:
    """The page of a sweep, which may be at work.

    Raises:
        UserError: if a file of it is damaged.
    """
    manifest = read_manifest(folder)
    points = _points(folder, manifest)
    rows, left_out = _by_prompt(folder, points)
    lists: dict[str, str] = {}
    configs = [_config(point, lists) for point in points]
    return render(
        "sweep.html",
        f"{folder.path.resolve().name}: {len(points)} points",
        heading=f"Sweep {folder.path.resolve().name}",
        status=status_of_sweep(folder),
        points=_table(points),
        figures=_figures(points),
        prompts=rows,
        left_out=left_out,
        configs=configs,
        prompt_lists=lists,
    )


def _points(folder: SweepFolder, manifest: Manifest) -> list[_Point]:
    groups: dict[str, list[Unit]] = {}
    for unit in manifest.units:
        varied = manifest.point_of(unit)["varied"]
        key = json.dumps({k: v for k, v in varied.items() if k != "seed"})
        groups.setdefault(key, []).append(unit)
    done = folder.done()
    points = []
    for number, (key, units) in enumerate(groups.items(), 1):
        there = [unit for unit in units if unit.id in done]
        logs = [read_log(folder, unit.id) for unit in there]
        config = dict(manifest.point_of(units[0])["config"])
        if logs:  # with the size that a budget has chosen
            config |= {key: logs[0][key] for key in ("searcher", "microbatch") if key in logs[0]}
        prompts = sum(unit.prompts for unit in there)
        seeds = [manifest.point_of(unit)["config"]["seed"] for unit in units]
        points.append(
            _Point(
                number=number,
                varied=json.loads(key),
                config=config,
                seeds=list(dict.fromkeys(seeds)),
                units=units,
                done=there,
                records=_records(folder, manifest, there),
                seconds=sum(log.get("seconds", 0.0) for log in logs) / max(prompts, 1),
            )
        )
    return points


def _records(folder: SweepFolder, manifest: Manifest, units: Sequence[Unit]) -> pa.Table | None:
    tables = []
    for unit in units:
        path = folder.records(unit.id)
        table = read_table(path, [n for n in columns_of(path) if n not in ("image", "recipe")])
        seed = manifest.point_of(unit)["config"]["seed"]
        tables.append(table.append_column("seed", pa.array([seed] * table.num_rows, pa.int64())))
    return pa.concat_tables(tables) if tables else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _table(points: Sequence[_Point]) -> Table:
    """The points side by side."""
    names = list(dict.fromkeys(name for point in points for name in point.verifiers))
    guides = {name for point in points for name in point.config["guide"]}
    columns = [Column("number", "number"), Column("point", "text"), Column("units done", "text")]
    several = any(len(point.config["guide"]) > 1 for point in points)
    scores = ([("score", "score", "searched for")] if several else []) + [
        (f"score.{name}", name, "guide" if name in guides else "report") for name in names
    ]
    for _, name, role in scores:
        columns.append(Column("mean", "number", f"{name} ({role})", 4))
        columns.append(Column("\N{PLUS-MINUS SIGN}", "number", f"{name} ({role})", 4))
    columns.append(Column("network passes", "number", "", 0))
    columns.append(Column("verifier calls", "number", "", 0))
    columns.append(Column("seconds", "number", "", 3))
    rows: list[list[Any]] = []
    for point in points:
        row: list[Any] = [point.number, point.label, f"{len(point.done)}/{len(point.units)}"]
        for column, _, _ in scores:
            mean = mean_of(point.numbers(column))
            row += [_known(mean.mean), _known((mean.high - mean.low) / 2)]
        costs = [point.network_passes, point.numbers("verifier_calls")]
        row += [_known(cost.mean()) if len(cost) else None for cost in costs]
        rows.append([*row, point.seconds if point.done else None])
    return Table("points-table", "Points of the sweep", tuple(columns), rows)


def _figures(points: Sequence[_Point]) -> list[tuple[Markup, str]]:
    """Score against cost, a figure for each thing that is searched for."""
    kinds: dict[str, list[_Point]] = {}
    for point in points:
        if len(point.numbers("score")) and np.isfinite(mean_of(point.numbers("score")).mean):
            wanted = [point.config[key] for key in ("guide", "aggregate")]
            kinds.setdefault(json.dumps(wanted), []).append(point)
    figures = []
    for number, group in enumerate(kinds.values()):
        score = " + ".join(group[0].config["guide"])
        dots = [
            Dot(str(one.number), _series(one), float(one.network_passes.mean()),
                mean_of(one.numbers("score")))
            for one in group
        ]  # fmt: skip
        caption = (
            "Mean and 95 % interval over prompts and seeds, by the numbers of the points. Points "
            "that differ in their budget or size alone are joined."
        )
        figures.append((points_figure(f"points-{number}", dots, score), caption))
        lines = [line for line in map(_progress, group) if line is not None]
        if all(len(line.scores) == 1 for line in lines):  # those are in the figure above
            continue
        for begin in range(0, len(lines), _MOST_LINES):
            figure = progress_figure(
                f"progress-{number}-{begin}", lines[begin : begin + _MOST_LINES], score
            )
            figures.append((figure, "The best finished sample so far: mean and 95 % interval."))
    return figures


def _series(point: _Point) -> str:
    """What points that differ in their budget or size alone have in common."""
    searcher = point.config["searcher"]["name"]
    size = FREE_SIZE.get(searcher)
    varied = {k: v for k, v in point.varied.items() if k not in ("budget", f"searcher.{size}")}
    chosen = varied.get("searcher")
    if isinstance(chosen, dict):
        varied["searcher"] = {k: v for k, v in chosen.items() if k != size}
    return label(varied)


def _progress(point: _Point) -> Progress | None:
    """The curve of a point, where its records have one."""
    if point.records is None or "curve.score" not in point.records.column_names:
        return None
    nested = (point.records[name].to_pylist() for name in ("curve.score", "curve.network_passes"))
    scores, passes = (np.asarray(rows, np.float64) for rows in nested)
    known = np.flatnonzero(np.isfinite(scores).all(axis=0))
    if not len(known):
        return None
    means = [mean_of(scores[:, place]) for place in known]
    return Progress(str(point.number), passes[:, known].mean(axis=0), means)


def _by_prompt(folder: SweepFolder, points: Sequence[_Point]) -> tuple[Table | None, int]:
    """A row for each prompt and seed, with what each point has found; and how many there are.

    Rows are in the order of the prompts' list, which their ids say nothing of.
    """
    rows: dict[tuple[int, int, str], dict[int, dict[str, Any]]] = {}
    places: dict[tuple[int, int, str], int] = {}
    units = [unit for point in points for unit in point.done]
    pictures = any("image" in columns_of(folder.records(unit.id)) for unit in units)
    for point in points:
        if point.records is None:
            continue
        for seed, identity, prompt, place, score in zip(
            *(point.records[name].to_pylist() for name in _NAMED), strict=True
        ):
            key = (identity, seed, prompt)
            rows.setdefault(key, {})[point.number] = {"score": score}
            places.setdefault(key, place)
    if not rows:
        return None, 0
    most = (_MOST_PICTURES if pictures else _MOST_NUMBERS) // len(points)
    ordered = sorted(rows, key=lambda key: (key[1], places[key], key[0]))[: max(most, 1)]
    shown = {key: rows[key] for key in ordered}
    if pictures:
        _add_pictures(folder, points, shown)
    columns = [Column("number", "number"), Column("prompt", "text"), Column("seed", "number")]
    points = [point for point in points if point.done]
    for point in points:
        if pictures:
            columns.append(Column("found", "picture", f"point {point.number}"))
        columns.append(Column("score", "number", f"point {point.number}", 4))
    table_rows = []
    for place, (_, seed, prompt) in enumerate(ordered, 1):
        row: list[Any] = [place, prompt, seed]
        for point in points:
            entry = shown[ordered[place - 1]].get(point.number, {})
            row += [entry.get("picture")] if pictures else []
            row.append(entry.get("score"))
        table_rows.append(row)
    table = Table("prompts-table", "What each point has found", tuple(columns), table_rows)
    return table, len(rows) if len(rows) > len(ordered) else 0


def _add_pictures(
    folder: SweepFolder,
    points: Sequence[_Point],
    shown: Mapping[tuple[int, int, str], dict[int, dict[str, Any]]],
) -> None:
    side = side_for(len(shown) * len(points))
    for point in points:
        seeds = iter([] if point.records is None else point.records["seed"].to_pylist())
        for unit in point.done:
            path = folder.records(unit.id)
            table = read_table(path, ("prompt_id", "prompt", "image"))
            images = table["image"] if "image" in table.column_names else [None] * table.num_rows
            named = (table[name].to_pylist() for name in ("prompt_id", "prompt"))
            for identity, prompt, image in zip(*named, images, strict=True):
                entry = shown.get((identity, next(seeds), prompt), {}).get(point.number)
                content = image.as_py() if image is not None else None
                if entry is not None and content is not None:
                    entry["picture"] = picture_of(content, side, path)


class _Config(NamedTuple):
    """What makes a point again."""

    number: int
    label: str
    text: str  # of the config, without prompts
    prompts: str  # the id of their list in the page
    more: str  # of the command


def _config(point: _Point, lists: dict[str, str]) -> _Config:
    first = [seed == point.seeds[0] for seed in point.numbers("seed").astype(int)]
    prompts = []
    if point.records is not None:
        named = point.records.filter(pa.array(first, pa.bool_())).sort_by("place")
        prompts = named["prompt"].to_pylist()
    listed = yaml.safe_dump({"prompts": prompts}, default_flow_style=None, width=100)
    known = {text: name for name, text in lists.items()}
    name = known.get(listed, f"prompts-{len(lists)}")
    lists[name] = listed
    others = point.seeds[1:]
    more = f"    # and with --seed {', '.join(map(str, others))}" if others else ""
    text = yaml.safe_dump(point.config, sort_keys=False, default_flow_style=None, width=100)
    return _Config(point.number, point.label, text, name, more)
