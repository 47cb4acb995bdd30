"""What `jaxsearch report` does."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jaxsearch.reports.arguments import ReportRequest
from jaxsearch.reports.page import check_place, write_page
from jaxsearch.reports.run import report_run
from jaxsearch.reports.sweep import report_sweep
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.folder import RunFolder
from jaxsearch.sweeps.folder import SweepFolder


def report(request: ReportRequest, console: Console) -> Path:
    """Writes the page that is asked for, and says where it is.

    Raises:
        UserError: if the folder is neither a run nor a sweep, or something in it is damaged.
    """
    folder = request.folder
    check_place(request.output)  # before anything is searched
    if SweepFolder(folder).manifest.is_file():
        if request.paths is not None:
            raise UserError(f"{folder} is the folder of a sweep, which --paths is not for")
        page = report_sweep(SweepFolder(folder))
    elif RunFolder(folder).config.is_file():
        page = report_run(
            folder, request.paths, lambda text: console.print(text, highlight=False, markup=False)
        )
    else:
        raise UserError(
            f"{folder} is the folder of no run and of no sweep: it has no config.yaml and no "
            "manifest.json"
        )
    write_page(request.output, page)
    return request.output
