"""The pictures of a run in the folders that a benchmark's evaluators read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsearch.runs.arguments import NameParser
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.folder import RunFolder, existing, whole_folder
from jaxsearch.runs.images import image_name, read_png_bytes
from jaxsearch.runs.layouts import LAYOUTS, described, write_layout
from jaxsearch.runs.prompt_files import Prompt
from jaxsearch.runs.records import read_lines

_KINDS = ("found", "plain")


class ExportRequest(NamedTuple):
    """What `jaxsearch export` is asked for."""

    folder: Path
    layout: str
    output: Path


def parse_export(argv: Sequence[str]) -> ExportRequest:
    """Reads the arguments of `export`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch export",
        description="Write the pictures of a run, or of a sweep that keeps images, into the "
        "folders that the evaluators of a benchmark read. The samples of a prompt are those of its "
        "repeats (--num-prompts) and, in a sweep, of its seeds. A run has the folders found and "
        "plain, a sweep one for each point.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="RUN", type=Path, help="the folder of a run or sweep")
    parser.add_argument("--layout", required=True, choices=tuple(LAYOUTS), help="whose evaluators")
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", type=Path, help="where to, new or empty"
    )
    return ExportRequest(**vars(parser.parse_args(list(argv))))


def export_run(request: ExportRequest) -> str:
    """Writes the found and the plain samples of a run, and says what was written.

    Raises:
        UserError: if the run is not finished, a file of it is damaged, the layout cannot hold a
            prompt of it, or the output is not an empty folder and cannot be made one.
    """
    folder = existing(request.folder)
    if not folder.summary.is_file():
        raise UserError(
            f"{folder.path} did not finish: go on with `jaxsearch search --resume {folder.path}`"
        )
    samples = _samples(folder)
    layout = LAYOUTS[request.layout](samples)
    with whole_folder(request.output) as output:
        for kind in _KINDS:
            write_layout(output / kind, layout, _pictures(folder, kind, len(samples)))
    return f"{request.output}: found and plain, {described(samples)}"


def _samples(folder: RunFolder) -> list[Prompt]:
    """What each sample of a run was asked for."""
    samples = []
    for number, record in enumerate(read_lines(folder.records, "the records"), 1):
        text, metadata = record.get("prompt"), record.get("metadata")
        if not isinstance(text, str) or not isinstance(metadata, dict | None):
            raise UserError(f"{folder.records} is damaged at line {number}: it is no record")
        samples.append(Prompt(text, metadata))
    if not samples:
        raise UserError(f"{folder.records} is damaged: it is empty")
    return samples


def _pictures(folder: RunFolder, kind: str, number: int) -> Iterator[bytes]:
    for index in range(number):
        yield read_png_bytes(folder.images / image_name(kind, index))
