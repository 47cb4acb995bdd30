"""The pictures of a sweep in the folders that a benchmark's evaluators read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxsearch.runs.errors import UserError
from jaxsearch.runs.exporting import ExportRequest
from jaxsearch.runs.files import write_json
from jaxsearch.runs.folder import whole_folder
from jaxsearch.runs.layouts import LAYOUTS, described, write_layout
from jaxsearch.runs.prompt_files import Prompt
from jaxsearch.sweeps.folder import SweepFolder, read_manifest
from jaxsearch.sweeps.records import read_table


class _Group(NamedTuple):
    """Points that differ in their seed alone: their samples stand beside each other."""

    varied: dict[str, Any]
    units: list[str]  # in the order of seeds and prompts


def export_sweep(request: ExportRequest) -> str:
    """Writes what a sweep has found, a folder for each point, and says what was written.

    The folders are numbered, and `points.json` says what the grid says of each.

    Raises:
        UserError: if the sweep is not finished or keeps no images, the layout cannot hold a prompt
            of it, or the output is not an empty folder and cannot be made one.
    """
    folder = SweepFolder(request.folder)
    groups = _groups(folder)
    samples = [_samples(folder, group.units) for group in groups]
    layouts = [LAYOUTS[request.layout](one) for one in samples]
    names = [f"point_{number:03d}" for number in range(len(groups))]
    with whole_folder(request.output) as output:
        points = {name: group.varied for name, group in zip(names, groups, strict=True)}
        write_json(output / "points.json", points)
        for name, group, layout in zip(names, groups, layouts, strict=True):
            write_layout(output / name, layout, _pictures(folder, group.units))
    each = ", ".join(dict.fromkeys(map(described, samples)))
    return f"{request.output}: {len(groups)} points, as points.json lists them, {each}"


def _groups(folder: SweepFolder) -> list[_Group]:
    manifest, done = read_manifest(folder), folder.done()
    if "images" not in manifest.keep:
        raise UserError(f"{folder.path} keeps no images: sweep once more with 'keep: [images]'")
    every = {unit.id for unit in manifest.units}
    if not every <= done:
        raise UserError(f"{len(every & done)} of {len(every)} units are done: go on with the sweep")
    groups: dict[str, _Group] = {}
    for unit in manifest.units:
        varied = {k: v for k, v in manifest.point_of(unit)["varied"].items() if k != "seed"}
        groups.setdefault(json.dumps(varied), _Group(varied, [])).units.append(unit.id)
    return list(groups.values())


def _samples(folder: SweepFolder, units: Sequence[str]) -> list[Prompt]:
    """What each sample was asked for."""
    samples = []
    for unit in units:
        columns = read_table(folder.records(unit), ("prompt", "metadata")).to_pydict()
        texts = columns["prompt"]
        metadata = columns.get("metadata", [None] * len(texts))
        for text, more in zip(texts, metadata, strict=True):
            samples.append(Prompt(text, json.loads(more) if more else None))
    return samples


def _pictures(folder: SweepFolder, units: Sequence[str]) -> Iterator[bytes]:
    for unit in units:
        for picture in read_table(folder.records(unit), ("image",))["image"]:
            yield picture.as_py()
