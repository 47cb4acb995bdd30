"""The records of all units in one file."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jaxsearch.runs.errors import UserError
from jaxsearch.sweeps.folder import Manifest, SweepFolder, read_log, read_manifest
from jaxsearch.sweeps.records import read_schema, read_table, varied_columns, write_table
from jaxsearch.sweeps.units import Unit

_GROUP_BYTES = 64 * 2**20  # of records that are in memory at once


def merge(
    folders: Sequence[SweepFolder], output: Path | None = None, *, partial: bool = False
) -> tuple[Path, Path]:
    """Writes `records.parquet`, a row for each prompt of each unit, and `units.parquet`.

    Records have the same bytes whenever and in how many processes their units were searched.

    Args:
        folders: of one sweep; several where its processes share no disk.
        output: where to; None writes into the first folder.
        partial: whether to merge those units that there are.

    Raises:
        UserError: if units are missing, or the folders are of several sweeps.
    """
    manifest = read_manifest(folders[0])
    for folder in folders[1:]:
        if read_manifest(folder) != manifest:
            raise UserError(f"{folder.path} is of another sweep than {folders[0].path}")
    where = {name: folder for folder in reversed(folders) for name in folder.done()}
    units = [unit for unit in manifest.units if unit.id in where]
    if not units or (len(units) < len(manifest.units) and not partial):
        every = {unit.id for unit in manifest.units}
        raise UserError(
            f"{len(every & set(where))} of {len(every)} units are done: go on with the sweep"
            + (", or take --partial to merge these" if units else "")
        )
    place = SweepFolder(folders[0].path if output is None else output)
    place.path.mkdir(parents=True, exist_ok=True)
    # Columns that only some units have are missing in the others.
    of_points = dict(varied_columns(manifest.points))
    schema = _schema(manifest, units, where, of_points)
    with _whole(place.merged) as path, pq.ParquetWriter(path, schema, compression="zstd") as file:
        group: list[pa.Table] = []
        size = 0
        for unit in units:
            records = read_table(where[unit.id].records(unit.id))
            rows = records.num_rows
            columns = {name: records[name] for name in records.column_names}
            for name, values in of_points.items():
                columns[name] = pa.array([values[unit.point].as_py()] * rows, values.type)
            group.append(_as(schema, columns, rows))
            size += group[-1].nbytes
            if size >= _GROUP_BYTES:
                file.write_table(pa.concat_tables(group))
                group, size = [], 0
        if group:
            file.write_table(pa.concat_tables(group))
    write_table(place.merged_units, _units(manifest, units, where, of_points))
    return place.merged, place.merged_units


def _schema(
    manifest: Manifest,
    units: Sequence[Unit],
    where: dict[str, SweepFolder],
    of_points: dict[str, pa.Array],
) -> pa.Schema:
    """Columns of the merged records: the grid's behind the unit, and all that units have."""
    found: dict[str, pa.DataType] = {}
    seen = set()
    for unit in units:
        point = manifest.point_of(unit)
        config = point["config"]
        kind = json.dumps([config["guide"], config["report"], point.get("metadata")])
        if kind not in seen:  # units of equal verifiers have equal columns
            seen.add(kind)
            path = where[unit.id].records(unit.id)
            found |= {field.name: field.type for field in read_schema(path)}
    head = {"unit": found.pop("unit")}
    grid = {name: values.type for name, values in of_points.items()}
    scores = {name: found[name] for name in found if name.startswith("score")}
    named = ("place", "prompt_id", "prompt", "metadata")
    before = {name: found[name] for name in named if name in found}
    return pa.schema(list({**head, **grid, **before, **scores, **found}.items()))


def _as(schema: pa.Schema, columns: dict[str, Any], rows: int) -> pa.Table:
    arrays = [
        columns.get(field.name, pa.nulls(rows, field.type)) for field in schema
    ]  # what a unit does not have is missing
    return pa.table(arrays, schema=schema)


def _units(
    manifest: Manifest,
    units: Sequence[Unit],
    where: dict[str, SweepFolder],
    of_points: dict[str, pa.Array],
) -> pa.Table:
    logs = [read_log(where[unit.id], unit.id) for unit in units]
    points = [unit.point for unit in units]
    columns: dict[str, Any] = {"unit": [unit.id for unit in units]}
    columns |= {name: values.take(pa.array(points)) for name, values in of_points.items()}
    columns["rows"] = [unit.prompts for unit in units]
    for name in ("score", "network_passes", "seconds", "process", "device", "finished"):
        columns[name] = [log.get(name) for log in logs]
    if any("graders" in log for log in logs):
        columns["graders"] = [json.dumps(log["graders"]) if "graders" in log else None
                              for log in logs]  # fmt: skip
    # With the size that a budget has chosen, and as many particles at once as there was room for.
    ran = [{k: log[k] for k in ("searcher", "microbatch") if k in log} for log in logs]
    configs = [manifest.points[point]["config"] for point in points]
    columns["config"] = [
        json.dumps({**config, **how}) for config, how in zip(configs, ran, strict=True)
    ]
    return pa.table(columns)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file to write that takes the name `path` once it is whole."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    try:
        os.chmod(name, 0o644)
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
