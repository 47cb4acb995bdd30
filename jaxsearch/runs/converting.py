"""Published checkpoints to folders that the command takes as models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax import nnx

from jaxsearch.models import dit_folder, edm_folder
from jaxsearch.models.autoencoder_kl import check_latents
from jaxsearch.models.configs import read_json
from jaxsearch.models.converted import write_converted
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.runs.arguments import NameParser
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.files import read_text

PUBLISHED: dict[str, edm_folder.EdmConfig | dit_folder.TransformerConfig] = {
    **edm_folder.PUBLISHED,
    **dit_folder.PUBLISHED,
}
"""Configs of published state dicts by name."""


class ConvertRequest(NamedTuple):
    """What `jaxsearch convert` is asked for."""

    source: Path
    folder: Path
    config: str | None
    entry: str | None
    labels: Path | None
    autoencoder: Path | None


def parse_convert(argv: Sequence[str]) -> ConvertRequest:
    """Reads the arguments of `convert`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch convert",
        description="Read a published checkpoint into a folder that `jaxsearch search --model` "
        "takes: EDM's pickles (.pkl), which carry their config, or a state dict (.pt) of EDM, DiT "
        "or SiT, which does not. Nothing that the file asks for is run, and PyTorch is not needed.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="FILE", help="the checkpoint", type=Path)
    parser.add_argument("folder", metavar="FOLDER", help="where to, new or empty", type=Path)
    parser.add_argument(
        "--config",
        help=f"of a state dict: {', '.join(PUBLISHED)}, or a file such as a folder's config.json",
    )
    parser.add_argument("--entry", help="of a state dict: where in the file the weights are: ema")
    parser.add_argument("--labels", help="a text file with the name of a class a line", type=Path)
    parser.add_argument(
        "--autoencoder",
        help="of DiT and SiT: the folder of their autoencoder, as diffusers has it",
        type=Path,
    )
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
        config = None if request.config is None else _config(request.config)
        if isinstance(config, dit_folder.TransformerConfig):
            if request.autoencoder is None:
                raise UserError("DiT and SiT make latents: name their --autoencoder, a folder")
            check_latents(request.autoencoder, config.network.in_channels)
            tensors = read_state_dict(request.source, name=request.entry)
            module: nnx.Module = dit_folder.abstract_dit(config.network)
            size = config.network.input_size
            what = f"{config.kind}, {{}} parameters, latents of {size}x{size}"
        else:
            if request.autoencoder is not None:
                raise UserError("--autoencoder: EDM's networks make pixels, and take none")
            config, tensors = edm_folder.read_published(request.source, config, entry=request.entry)
            module = edm_folder.abstract_network(config)
            size, own = config.network.image_size, config.preconditioning
            what = f"{config.kind}, {{}} parameters, {size}x{size} pixels, {own.kind}"
        write_converted(
            request.folder,
            config.to_json(),
            module,
            tensors,
            source=request.source,
            num_classes=config.num_classes,
            labels=labels,
            autoencoder=request.autoencoder,
        )
    number = sum(tensor.size for tensor in tensors.values())
    classes = f"{config.num_classes or 'no'} classes"
    return f"{request.folder}: {what.format(f'{number:,}')}, {classes}"


def _config(name: str) -> edm_folder.EdmConfig | dit_folder.TransformerConfig:
    if name in PUBLISHED:
        return PUBLISHED[name]
    if read_json(name).get("family") == dit_folder.FAMILY:
        return dit_folder.read_transformer_config(name)
    return edm_folder.read_config(name)
