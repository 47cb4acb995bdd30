"""The command `metrics`: populations of images beside a reference."""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from jaxsearch.core.checks import check_count
from jaxsearch.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    prompt_diversity,
)
from jaxsearch.metrics.extractor import Extractor
from jaxsearch.metrics.moments import Statistics
from jaxsearch.metrics.population import Population, population
from jaxsearch.parallel import particle_mesh
from jaxsearch.runs.arguments import NameParser
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.files import write_json
from jaxsearch.runs.folder import RunFolder, versions
from jaxsearch.runs.populations import Source, model_of, references, sources
from jaxsearch.runs.progress import ImagesShown
from jaxsearch.runs.records import finite
from jaxsearch.runs.settings import EXECUTION, check_seed
from jaxsearch.zoo.features import EXTRACTORS
from jaxsearch.zoo.references import REFERENCES
from jaxsearch.zoo.verifiers import files_of

METRICS = {
    "frechet": "Frechet distance",
    "score": "Inception score",
    "kernel": "kernel distance",
    "precision": "precision and recall",
    "diversity": "diversity within prompts",
}
"""By the names that `--metrics` takes."""
_OF_SINGLE_IMAGES = set(METRICS) - {"frechet"}
_PART = 5000  # images of a part of an Inception score, as in ADM's evaluator
_SUBSET = 1000  # images of a subset of a kernel distance, as in torch-fidelity and clean-fid
_SETTINGS = ("weights", "resize", "path", "network", "dtype")

_DESCRIPTION = """Say how a population of images compares with a reference.

The Frechet distance (of Inception's features FID and, of spatial ones, sFID; of CLIP's CLIP-FID),
Inception score, kernel distance (KID), precision and recall, and how far samples of one prompt are
apart. Images are the found and the plain samples of a run, the pictures of a folder, or arr_0 of an
.npz. A reference is given in the same ways, as mu and sigma of an .npz (of ADM or pytorch-fid), or
by the name of images that come with the package, which are then compared with each other too.

Frechet distance, precision and recall hang on the number of images: compare them for equal numbers.
"""
_EXAMPLES = """
examples:
  jaxsearch metrics runs/first --reference digits
  jaxsearch metrics samples.npz --reference VIRTUAL_imagenet256_labeled.npz --features inception
      --weights pt_inception-2015-12-05-6726825d.pth
  jaxsearch metrics pictures/ --reference others/ --features encoder
      --weights openai/clip-vit-base-patch32
"""


class MetricsRequest(NamedTuple):
    """What `jaxsearch metrics` is asked for."""

    images: Path
    reference: str
    features: str | None
    settings: dict[str, Any]  # of the network
    metrics: tuple[str, ...]
    neighbours: int
    splits: int | None
    subsets: int
    subset_size: int | None
    seed: int
    batch: int
    devices: int | None
    output: Path
    quiet: bool
    compilation_cache: str | None


def parse_metrics(argv: Sequence[str]) -> MetricsRequest:
    """Reads the arguments of `metrics`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch metrics",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    names, known = " or ".join(REFERENCES), ", ".join(EXTRACTORS)
    add("images", metavar="IMAGES_OR_RUN", type=Path, help="a run, a folder of pictures, an .npz")
    add("--reference", required=True, metavar="WHAT", help=f"such as well, or {names}")
    add("--features", choices=tuple(EXTRACTORS), metavar="NAME",
        help=f"whose features are compared: {known}. default: those of the run's own model, or of "
        "the reference's name")  # fmt: skip
    add("--weights", help="of that network: a file, a folder or an id of the hub")
    add("--resize", choices=("tensorflow", "pytorch"),
        help="of inception: as ADM's evaluator resizes (default), or pytorch-fid")  # fmt: skip
    add("--path", choices=("8bit", "float"),
        help="of encoder: round to levels as Pillow does (default), or nowhere")  # fmt: skip
    add("--network", choices=("attributes", "contrastive"), help="of scenes. default: attributes")
    add("--dtype", choices=("float32", "bfloat16"), help="of weights. default: float32")
    add("--metrics", nargs="+", choices=tuple(METRICS), default=list(METRICS), metavar="NAME",
        help=f"some of {', '.join(METRICS)}. frechet alone needs no features of single images, "
        "whose memory grows with their number")  # fmt: skip
    add("--neighbours", type=int, default=3, help="of precision and recall. default: 3")
    add("--splits", type=int, help="of the Inception score. default: one for 5000 images")
    add("--subsets", type=int, default=100, help="of the kernel distance. default: 100")
    add("--subset-size", type=int, help="of those. default: 1000, or as many images as there are")
    add("--seed", type=int, default=0, help="of those. default: 0")
    add("--batch", type=int, default=64, help="images at once over all devices. default: 64")
    add("--devices", type=int, help="default: all accelerators, or the CPU")
    add("--output", type=Path,
        help="a JSON file; an older one is replaced. default: metrics.json in the run, or "
        "IMAGES.metrics.json")  # fmt: skip
    add("--compilation-cache", help=EXECUTION["compilation_cache"].help)
    add("--quiet", action="store_true", help="show no progress and no table")
    found = vars(parser.parse_args(list(argv)))
    settings = {key: found.pop(key) for key in _SETTINGS}
    given = {key: value for key, value in settings.items() if value is not None}
    images, metrics = found["images"], tuple(dict.fromkeys(found.pop("metrics")))
    found["output"] = found["output"] or _beside(images)
    check_seed(found["seed"])
    for key in ("neighbours", "splits", "subsets", "subset_size", "batch"):
        if found[key] is not None:
            with explained(key):
                check_count(key, found[key])
    return MetricsRequest(settings=given, metrics=metrics, **found)


def _beside(images: Path) -> Path:
    if RunFolder(images).config.is_file():
        return images / "metrics.json"
    return images.with_name(f"{images.resolve().name}.metrics.json")


# ------------------------------------------------------------------------------------- measurement


def measure(request: MetricsRequest, console: Console) -> dict[str, Any]:
    """Computes what is asked for, writes it and returns it.

    Raises:
        UserError: if images, reference or network cannot be had, or do not go together.
    """
    begin = time.monotonic()
    if not request.images.exists():
        raise UserError(f"there are no images {request.images}")
    if request.output.is_dir():
        raise UserError(f"{request.output} is a folder: give --output a file")
    name, extractor = _extractor(request)
    with explained("devices"):
        mesh = particle_mesh(request.devices)
    given = sources(request.images)
    most = max((source.number or 0 for source in given), default=0)
    reference, *beside = references(request.reference, most or None)

    def looked_at(source: Source) -> Population:
        return _looked_at(source, name, extractor, request, mesh, console)

    real = looked_at(reference)
    columns, weights = {}, request.settings.get("weights")
    for source in (*given, *beside):
        seen = looked_at(source)
        columns[source.name] = _figures(_Compared(request, source, seen, real, mesh))
    found = {
        "images": str(request.images),
        "reference": {"name": request.reference, "number": _number_of(real)},
        "features": extractor.name,
        "settings": {
            **request.settings,
            **{key: getattr(request, key) for key in ("neighbours", "subsets", "seed")},
        },
        "populations": columns,
        "seconds": time.monotonic() - begin,
        "versions": versions(files_of("weights", weights) if weights else {}),
    }
    write_json(request.output, found)
    return found


def _extractor(request: MetricsRequest) -> tuple[str, Extractor]:
    """The network by its name, which may go without saying."""
    name = request.features
    if name is None:
        wanted = (model_of(request.images), request.reference, model_of(Path(request.reference)))
        name = next((one for one in wanted if one in EXTRACTORS), None)
    if name is None:
        raise UserError(
            f"features are missing: say whose by --features, {', '.join(EXTRACTORS)} with --weights"
        )
    factory = EXTRACTORS[name]
    for setting in request.settings:
        if setting not in inspect.signature(factory).parameters:
            raise UserError(f"--{setting} is given, but {name} has no such setting: leave it out")
    with explained(name):
        return name, factory(**request.settings)


def _number_of(seen: Population) -> int | None:
    if seen.number is None and seen.statistics is not None:
        return seen.statistics.number
    return seen.number


def _looked_at(
    source: Source,
    name: str,
    extractor: Extractor,
    request: MetricsRequest,
    mesh: jax.sharding.Mesh | None,
    console: Console,
) -> Population:
    """What metrics need of a source; the statistics of its file, if they are of such features."""
    needs_single = bool(_OF_SINGLE_IMAGES & set(request.metrics))
    stated = source.statistics if name == "inception" or source.images is None else None
    if source.images is None or (stated is not None and not needs_single):
        return Population(source.number, stated, source.spatial)
    shown = ImagesShown(source.name, source.number, console, quiet=request.quiet)
    with shown, explained(source.name):
        seen = population(
            extractor,
            source.images(),
            batch=request.batch,
            keep=needs_single,
            mesh=mesh,
            progress=shown,
        )
    if stated is None:
        return seen
    return seen._replace(statistics=stated, spatial=source.spatial or seen.spatial)


class _Compared(NamedTuple):
    """A population beside the reference."""

    request: MetricsRequest
    source: Source
    seen: Population
    real: Population
    mesh: jax.sharding.Mesh | None


_Figures = dict[str, float | None]


def _figures(it: _Compared) -> dict[str, float | int | None]:
    """All figures of a population; None of what its source or the reference does not have."""
    found: _Figures = {}
    with explained(it.source.name):
        for metric in METRICS:
            if metric in it.request.metrics:
                found |= _COMPUTED[metric](it)
    shown = {key: None if value is None else finite(value) for key, value in found.items()}
    return {"number": _number_of(it.seen), **shown}


def _frechet(it: _Compared) -> _Figures:
    def between(one: Statistics | None, other: Statistics | None) -> float | None:
        return None if one is None or other is None else frechet_distance(one, other)

    found = {"frechet_distance": between(it.seen.statistics, it.real.statistics)}
    if it.seen.spatial is not None:
        found["spatial_frechet_distance"] = between(it.seen.spatial, it.real.spatial)
    return found


def _score(it: _Compared) -> _Figures:
    logits = it.seen.logits
    if logits is None:
        return {}
    found = inception_score(logits, splits=it.request.splits or max(len(logits) // _PART, 1))
    return {"inception_score": found.mean, "inception_score_std": found.std}


def _kernel(it: _Compared) -> _Figures:
    made, real = it.seen.features, it.real.features
    if made is None or real is None:
        return {"kernel_distance": None, "kernel_distance_std": None}
    size = it.request.subset_size or min(_SUBSET, len(made), len(real))
    key, subsets = jax.random.key(it.request.seed), it.request.subsets
    found = kernel_distance(key, real, made, subsets=subsets, subset_size=size)
    return {"kernel_distance": found.mean, "kernel_distance_std": found.std}


def _precision(it: _Compared) -> _Figures:
    made, real = it.seen.features, it.real.features
    if made is None or real is None:
        return {"precision": None, "recall": None}
    found = precision_recall(real, made, neighbours=it.request.neighbours, mesh=it.mesh)
    return found._asdict()


def _diversity(it: _Compared) -> _Figures:
    prompts, features = it.source.prompts, it.seen.features
    if prompts is None or features is None:
        return {}
    return {"prompt_diversity": prompt_diversity(features, prompts)}


_COMPUTED: dict[str, Callable[[_Compared], _Figures]] = {
    "frechet": _frechet,
    "score": _score,
    "kernel": _kernel,
    "precision": _precision,
    "diversity": _diversity,
}
