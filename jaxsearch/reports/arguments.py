"""The command line of `report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsearch.runs.arguments import NameParser
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.settings import EXECUTION

_REPORT = """Write what a run or a sweep has found as one HTML page, which needs no network.

Of a run it has the pictures, plain beside found, the scores of all verifiers, score against cost,
what was spent, the config and the command that makes it again. For a few prompts it shows the
decisions: the search is carried out once more, which ends in the same samples, and watched.

Of a sweep, which may be at work, it has the points side by side.
"""


class ReportRequest(NamedTuple):
    """What `jaxsearch report` is asked for."""

    folder: Path
    output: Path
    paths: int | None
    compilation_cache: str | None


def parse_report(argv: Sequence[str]) -> ReportRequest:
    """Reads the arguments of `report`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch report",
        description=_REPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", metavar="RUN_OR_SWEEP", type=Path, help="the folder of a run or of a sweep"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the page; an older one is replaced. default: report.html in it",
    )
    parser.add_argument(
        "--paths", type=int, metavar="N",
        help="of a run, prompts whose decisions are shown, for which its search is carried out "
        "once more. default: 3, or 0 where that took over a minute or the model is not there",
    )  # fmt: skip
    parser.add_argument("--compilation-cache", help=EXECUTION["compilation_cache"].help)
    found = parser.parse_args(list(argv))
    if found.paths is not None and found.paths < 0:
        raise UserError(f"paths is {found.paths}: it must be 0 or more")
    output = found.output or found.folder / "report.html"
    return ReportRequest(found.folder, output, found.paths, found.compilation_cache)
