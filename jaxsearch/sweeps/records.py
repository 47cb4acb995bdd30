"""The records of units as Parquet, which pandas, polars and others read.

A unit's file holds what hangs on its id alone, so it has the same bytes whenever and wherever the
unit is searched. What the grid says of it, and when and how fast it was, is beside it and joined
when files are merged.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxsearch.core.pixels import to_pixels
from jaxsearch.core.types import Cost, SearchResult
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import write_atomic
from jaxsearch.runs.images import png_of
from jaxsearch.runs.recipes import recipe_files
from jaxsearch.runs.records import finite
from jaxsearch.sweeps.units import Unit


class Found(NamedTuple):
    """What the search of a unit has found, on the host: the first rows are its prompts'."""

    result: SearchResult
    ids: np.ndarray  # [P] of prompts
    images: np.ndarray  # [P, h, w, c] float32 in [0, 1]
    scores: np.ndarray  # [P, V] by verifier, not finite where it failed


_COSTS = {
    "network_passes": "network_passes",
    "backward_passes": "backward_passes",
    "solver_steps": "solver_steps_papers_nfe",
    "decodes": "decodes",
    "verifier_calls": "verifier_calls",
}


def table_of(
    unit: Unit,
    prompts: Sequence[str],
    found: Found,
    verifiers: Sequence[str],
    keep: Sequence[str],
    metadata: Sequence[Mapping[str, Any] | None] = (),
) -> pa.Table:
    """The records of a unit, a row for each of its prompts.

    Args:
        unit: what was searched.
        prompts: of it.
        found: by the search.
        verifiers: [V] names.
        keep: of `KEEP`.
        metadata: of the prompts, as JSON, or nothing for no such column.
    """
    num, result = unit.prompts, found.result
    columns: dict[str, pa.Array] = {
        "unit": pa.array([unit.id] * num),
        "place": pa.array(np.arange(unit.begin, unit.end, dtype=np.int32)),
        "prompt_id": pa.array(np.asarray(found.ids)[:num]),
        "prompt": pa.array(list(prompts), pa.string()),
        **({"metadata": _json(metadata)} if metadata else {}),
        "score": _numbers(result.score, num),
    }
    for index, name in enumerate(verifiers):
        columns[f"score.{name}"] = _numbers(found.scores[:, index], num)
    for field, name in _COSTS.items():
        columns[name] = pa.array(np.asarray(getattr(result.cost, field))[:num].astype(np.int64))
    if "curves" in keep:
        best, spent = np.asarray(result.trace.best), _passes(result.trace.cost)
        scores = [[finite(score) for score in best[:, row]] for row in range(num)]
        columns["curve.score"] = pa.array(scores, pa.list_(pa.float32()))
        spent_by = [spent[:, row] for row in range(num)]
        columns["curve.network_passes"] = pa.array(spent_by, pa.list_(pa.int64()))
    if "recipes" in keep:
        best_one = result.particle
        filled = [*prompts, *[prompts[-1]] * (len(found.ids) - num)]
        texts = recipe_files(best_one.noise, found.ids.tolist(), filled, best_one.legs)
        columns["recipe"] = pa.array(texts[:num], pa.string())
    if "images" in keep:
        pictures = [png_of(pixels) for pixels in to_pixels(found.images[:num])]
        columns["image"] = pa.array(pictures, pa.binary())
    return pa.table(columns)


def _json(values: Sequence[Mapping[str, Any] | None]) -> pa.Array:
    """Mappings as text, missing where there is none."""
    return pa.array([json.dumps(value) if value else None for value in values], pa.string())


def _numbers(values: Any, num: int) -> pa.Array:
    return pa.array(_finite(np.asarray(values)[:num]))


def _finite(values: np.ndarray) -> pa.Array:
    """Numbers, missing where they are not finite."""
    return pa.array(values.astype(np.float32), mask=~np.isfinite(values))


def _passes(cost: Cost) -> np.ndarray:
    """[R, P] network passes, those back included."""
    passes = np.asarray(cost.network_passes) + np.asarray(cost.backward_passes)
    return passes.astype(np.int64)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a file that is there as a whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def read_schema(path: Path) -> pa.Schema:
    """The columns of a file.

    Raises:
        UserError: if it cannot be read.
    """
    with _readable(path):
        return pq.read_schema(path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The records of a file; of the columns, those that it has.

    Raises:
        UserError: if it cannot be read.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        wanted = None if columns is None else [name for name in columns if name in names]
        return file.read(columns=wanted)


def columns_of(path: Path) -> list[str]:
    """The names of the columns of a file, without reading them.

    Raises:
        UserError: if it cannot be read.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        return file.schema_arrow.names


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read: remove it, and its unit is searched again"
        ) from error


def varied_columns(points: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, pa.Array]]:
    """What a grid says of each of its points, a column for each entry."""
    names = list(dict.fromkeys(name for point in points for name in point["varied"]))
    for name in names:
        yield name, _column([point["varied"].get(name) for point in points])


def _column(values: list[Any]) -> pa.Array:
    """Values of one type as they are, those of several as text."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    numbers = [value for value in known if not isinstance(value, bool)]
    if len(numbers) == len(known) and all(isinstance(value, int | float) for value in known):
        whole = all(isinstance(value, int) for value in known)
        return pa.array(values, pa.int64() if whole else pa.float64())
    texts = [
        value if value is None or isinstance(value, str) else json.dumps(value) for value in values
    ]
    return pa.array(texts, pa.string())
