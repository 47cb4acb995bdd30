"""The command lines of `sweep`, `status` and `merge`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsearch.core.checks import check_count
from jaxsearch.runs.arguments import NameParser
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.settings import EXECUTION

_SWEEP = """Search a grid: all combinations of what a file lists.

Each combination is divided into units of some prompts, which processes share. What a unit finds is
written when it is done; the same command goes on with a sweep that was stopped.

example of a file:
  guide: classifier
  num_prompts: 36
  grid:
    seed: [0, 1, 2]
    searcher: [best_of_n, epsilon_greedy]
    budget: [500, 2000]
  unit_prompts: 64          # the most prompts that are searched at once
  keep: [recipes, images]   # and curves

The other entries are those of `jaxsearch search --config`. In the grid, settings have dotted names
(solver.churn: [0, 40]); a list of grids stands for all of their combinations.
"""


class SweepRequest(NamedTuple):
    """What `jaxsearch sweep` is asked for."""

    config: Path
    output: Path
    process: int | None
    processes: int | None
    devices: int | None
    model_devices: int
    checkpoint_seconds: float
    grader_concurrency: int
    compilation_cache: str | None
    quiet: bool
    dry_run: bool


def parse_sweep(argv: Sequence[str]) -> SweepRequest:
    """Reads the arguments of `sweep`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch sweep",
        description=_SWEEP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the sweep's file (YAML)")
    parser.add_argument("--output", type=Path, help="its folder. default: runs/<name of the file>")
    parser.add_argument(
        "--process", type=int, metavar="I", help="this process is number I, from 0, of several"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="how many share the units")
    parser.add_argument("--devices", type=int, help=EXECUTION["devices"].help)
    parser.add_argument(
        "--model-devices", type=int, default=1, help=EXECUTION["model_devices"].help
    )
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=30.0,
        help="how often a long unit is saved, at most (default: 30)",
    )  # fmt: skip
    parser.add_argument(
        "--grader-concurrency", type=int, default=8,
        help=f"{EXECUTION['grader_concurrency'].help}, by each process (default: 8)",
    )  # fmt: skip
    parser.add_argument("--compilation-cache", help=EXECUTION["compilation_cache"].help)
    parser.add_argument("--quiet", action="store_true", help="show no progress and no table")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be searched")
    found = parser.parse_args(list(argv))
    output = found.output or Path("runs") / found.config.stem
    if not found.checkpoint_seconds >= 0:
        raise UserError(f"checkpoint_seconds is {found.checkpoint_seconds}: it must be 0 or more")
    with explained("grader_concurrency"):
        check_count("grader_concurrency", found.grader_concurrency)
    if (found.process is None) != (found.processes is None):
        raise UserError("--process and --processes go together: give both or none")
    if found.process is not None and not 0 <= found.process < found.processes:
        raise UserError(
            f"process is {found.process} of {found.processes}: they are numbered from 0 to one "
            "less than there are"
        )
    return SweepRequest(**{**vars(found), "output": output})


def parse_status(argv: Sequence[str]) -> Path:
    """Reads the arguments of `status`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch status",
        description="How far a sweep has come and what it has found, also while it is at work.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the folder of a sweep")
    return parser.parse_args(list(argv)).folder


class MergeRequest(NamedTuple):
    """What `jaxsearch merge` is asked for."""

    folders: tuple[Path, ...]
    output: Path | None
    partial: bool


def parse_merge(argv: Sequence[str]) -> MergeRequest:
    """Reads the arguments of `merge`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch merge",
        description="Write records.parquet, a row for each prompt of each unit, and units.parquet. "
        "A sweep that ends does it by itself.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folders", metavar="FOLDER", type=Path, nargs="+",
        help="the folder of a sweep; several if its processes shared no disk",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, help="where to. default: the first folder")
    parser.add_argument("--partial", action="store_true", help="merge those units that there are")
    found = parser.parse_args(list(argv))
    return MergeRequest(tuple(found.folders), found.output, found.partial)
