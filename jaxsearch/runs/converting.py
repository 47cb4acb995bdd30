"""Published checkpoints to folders that the command takes as models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsearch.models.edm_folder import (
    PUBLISHED,
    EdmConfig,
    read_config,
    read_published,
    write_folder,
)
from jaxsearch.runs.arguments import NameParser
from jaxsearch.runs.errors import explained
from jaxsearch.runs.files import read_text


class ConvertRequest(NamedTuple):
    """What `jaxsearch convert` is asked for."""

    source: Path
    folder: Path
    config: str | None
    labels: Path | None


def parse_convert(argv: Sequence[str]) -> ConvertRequest:
    """Reads the arguments of `convert`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch convert",
        description="Read a published checkpoint into a folder that `jaxsearch search --model` "
        "takes: EDM's pickles (.pkl), which carry their config, or a state dict (.pt), which does "
        "not. Nothing that the file asks for is run, and PyTorch is not needed.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="FILE", help="the checkpoint", type=Path)
    parser.add_argument("folder", metavar="FOLDER", help="where to, new or empty", type=Path)
    parser.add_argument(
        "--config",
        help=f"of a state dict: {' or '.join(PUBLISHED)}, or a file such as a folder's config.json",
    )
    parser.add_argument("--labels", help="a text file with the name of a class a line", type=Path)
    return ConvertRequest(**vars(parser.parse_args(list(argv))))


def convert(request: ConvertRequest) -> str:
    """Converts a checkpoint, and says what it was.

    Raises:
        UserError: if the checkpoint cannot be read or is of another network, or the folder is in
            use.
    """
    labels: list[str] = []
    if request.labels is not None:
        labels = read_text(request.labels, "the file of labels").splitlines()
    with explained("convert"):
        config, tensors = read_published(request.source, _config(request.config))
        write_folder(request.folder, config, tensors, source=request.source, labels=labels)
    number = sum(tensor.size for tensor in tensors.values())
    side = config.network.image_size
    return (
        f"{request.folder}: {config.kind} of {number:,} parameters, {side}x{side} pixels, "
        f"{config.num_classes or 'no'} classes, {config.preconditioning.kind} preconditioning"
    )


def _config(name: str | None) -> EdmConfig | None:
    if name is None or name in PUBLISHED:
        return None if name is None else PUBLISHED[name]
    return read_config(name)
