"""The `jaxsearch` command."""

from __future__ import annotations

import difflib
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_OVERVIEW = """usage: jaxsearch COMMAND [options]

Search over the noise of diffusion and flow models, at inference time.

  search    search a model's noise; leaves a run folder with pictures, scores and recipes
  sweep     search a grid of searchers, settings, prompts and seeds; processes may share it
  status    how far a sweep has come, and what it has found
  merge     the records of a sweep in one file
  report    write a run or a sweep as one HTML page: pictures, scores, costs and decisions
  replay    make the pictures of a run again from its noise recipes, and compare them
  metrics   compare images with a reference: FID, Inception score, KID, precision, recall
  export    the pictures of a run in the folders that GenEval or T2I-CompBench reads
  plan      say what a search would cost, without running it
  convert   read a published checkpoint, without running it, into a folder for --model
  list      searchers, verifiers, models, solvers and schedules, one line each

jaxsearch COMMAND --help says more. Try: jaxsearch search
"""
_EXAMPLES = """
examples:
  jaxsearch search
  jaxsearch search --searcher best_of_n --searcher.candidates 16 --guide brightness
  jaxsearch search --prompts 0 1 2 --seed 3 --output runs/three
  jaxsearch search --config runs/three/config.yaml --searcher zero_order
  jaxsearch search --resume runs/three
"""
_LISTED = ("searchers", "verifiers", "models", "solvers", "schedules", "values", "aggregates")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    0 is success, 1 a replay that differs, 2 a request that cannot be met (one line on the standard
    error says why), 130 and 143 an interruption.
    """
    from jaxsearch.runs.errors import UserError

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            return _dispatch(arguments)
    except UserError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except BrokenPipeError:  # `jaxsearch list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        where = f" {error.filename}" if error.filename else ""
        return _complain(f"cannot read or write{where}: {os.strerror(error.errno).lower()}", 2)
    except RuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return _complain(
            "out of memory on the device: run fewer particles at once with --microbatch, or take "
            f"fewer prompts or candidates ({' '.join(str(error).split())[:200]})",
            2,
        )


def _complain(message: str, status: int) -> int:
    print(f"jaxsearch: {message}", file=sys.stderr)
    return status


def _warn(message: Warning | str, *where: Any, **place: Any) -> None:
    """A warning of the library in one line; where it was raised is of no use to who reads it."""
    text = " ".join(str(message).split())
    print(f"jaxsearch: warning: {text}", file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "search": _search,
        "sweep": _sweep,
        "status": _status,
        "merge": _merge,
        "report": _report,
        "replay": _replay,
        "metrics": _metrics,
        "export": _export,
        "plan": _plan,
        "convert": _convert,
        "list": _list,
    }
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_OVERVIEW, end="")
        return 0
    if arguments[0] == "--version":
        from jaxsearch import __version__

        print(f"jaxsearch {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(commands)}"
        return _complain(f"unknown command {name!r}: {hint}", 2)
    return commands[name](rest)


def _search(arguments: list[str]) -> int:
    from rich.console import Console

    from jaxsearch.runs.arguments import parse

    description = "Search a model's noise." + _EXAMPLES
    request = parse(arguments, command="search", description=description)
    execution, config = request.execution, request.config
    _use_compilation_cache(execution.compilation_cache)

    from jaxsearch.runs.build import with_budget
    from jaxsearch.runs.driving import mesh_of
    from jaxsearch.runs.report import print_summary
    from jaxsearch.runs.run import RunInterruptedError, new_run, resume_run

    console = Console(stderr=True, soft_wrap=True, markup=False)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    model = Path(config.model.name).name
    named = Path(execution.output or f"runs/{model}-{config.searcher.name}-{stamp}")
    path = request.resume or named
    carry_out = new_run if request.resume is None else resume_run
    if request.free is not None:
        mesh = mesh_of(execution.devices, execution.model_devices)
        config = with_budget(config, request.free, mesh=mesh)
    try:
        summary = carry_out(config, path, execution, console)
    except RunInterruptedError as error:
        return _complain(str(error), error.status)
    if not execution.quiet:
        print_summary(Console(), summary, path)
    return 0


def _sweep(arguments: list[str]) -> int:
    from rich.console import Console

    from jaxsearch.sweeps.arguments import parse_sweep

    request = parse_sweep(arguments)
    _use_compilation_cache(request.compilation_cache)

    from jaxsearch.sweeps.folder import SweepFolder
    from jaxsearch.sweeps.grid import read_sweep
    from jaxsearch.sweeps.reporting import print_points, print_status, status_of_sweep
    from jaxsearch.sweeps.sweep import SweepInterruptedError, options_of, run_sweep

    options = options_of(request)
    sweep = read_sweep(request.config)
    if request.dry_run:
        print_points(_wide(), sweep, request.output)
        return 0
    console = Console(stderr=True, soft_wrap=True, markup=False)
    try:
        outcome = run_sweep(sweep, request.output, options, console)
    except SweepInterruptedError as error:
        return _complain(str(error), error.status)
    if options.share.process == 0 and not options.quiet:
        print_status(_wide(), status_of_sweep(SweepFolder(request.output)), request.output)
    if outcome.failures:
        others = f" (and {len(outcome.failures) - 1} more)" if len(outcome.failures) > 1 else ""
        return _complain(f"a unit could not be searched: {outcome.failures[0]}{others}", 2)
    return 0


def _wide() -> Console:
    """The terminal; a file has lines as long as they need to be."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _status(arguments: list[str]) -> int:
    from jaxsearch.sweeps.arguments import parse_status

    folder = parse_status(arguments)

    from jaxsearch.sweeps.folder import SweepFolder
    from jaxsearch.sweeps.reporting import print_status, status_of_sweep

    print_status(_wide(), status_of_sweep(SweepFolder(folder)), folder)
    return 0


def _merge(arguments: list[str]) -> int:
    from jaxsearch.sweeps.arguments import parse_merge

    request = parse_merge(arguments)

    from jaxsearch.sweeps.folder import SweepFolder
    from jaxsearch.sweeps.merging import merge

    folders = [SweepFolder(folder) for folder in request.folders]
    for path in merge(folders, request.output, partial=request.partial):
        print(path)
    return 0


def _report(arguments: list[str]) -> int:
    from rich.console import Console

    from jaxsearch.reports.arguments import parse_report

    request = parse_report(arguments)
    _use_compilation_cache(request.compilation_cache)

    from jaxsearch.reports.report import report

    print(report(request, Console(stderr=True, soft_wrap=True, markup=False)))
    return 0


def _plan(arguments: list[str]) -> int:
    from rich.console import Console

    from jaxsearch.runs.arguments import parse

    description = "Say what a search would cost, without running it. Takes the options of search."
    request = parse(arguments, command="plan", description=description)
    _use_compilation_cache(request.execution.compilation_cache)

    from jaxsearch.core.plan import plan
    from jaxsearch.runs.build import build, with_budget, with_microbatch
    from jaxsearch.runs.driving import mesh_of
    from jaxsearch.runs.grading import graders_of
    from jaxsearch.runs.planning import further, with_graders
    from jaxsearch.runs.report import print_plan

    config, execution = request.config, request.execution
    mesh = mesh_of(execution.devices, execution.model_devices)
    shapes = not request.planning.measure  # nothing else needs a weight
    if request.free is not None:
        config = with_budget(config, request.free, mesh=mesh, shapes=shapes)
        print(f"within the budget: {request.free} {config.searcher.settings[request.free]}\n")
    built = build(config, mesh=mesh, shapes=shapes)
    config, said = with_microbatch(config, built, mesh)
    price = plan(built.searcher, built.problem, built.prompts, microbatch=config.microbatch)
    graders_of(config)  # which refuses what is missing, and asks nobody
    more = further(request.planning, config, built, price, mesh, execution.model_devices)
    price, questions = with_graders(price, config)
    more |= questions
    print_plan(Console(), price, len(config.prompts), more)
    if said:
        print(f"\n{said}")
    return 0


def _replay(arguments: list[str]) -> int:
    from jaxsearch.runs.arguments import parse_replay

    request = parse_replay(arguments)
    _use_compilation_cache(request.compilation_cache)

    from jaxsearch.runs.replaying import replay_run

    comparison = replay_run(request.run, request.output)
    total = comparison.identical + len(comparison.differences)
    print(f"{comparison.identical} of {total} images identical")
    for line in comparison.differences:
        print(line)
    for name in comparison.changed:
        print(f"{name} is not what it was when the run began")
    return 1 if comparison.differences else 0


def _metrics(arguments: list[str]) -> int:
    from rich.console import Console

    from jaxsearch.runs.measuring import measure, parse_metrics
    from jaxsearch.runs.report import print_metrics

    request = parse_metrics(arguments)
    _use_compilation_cache(request.compilation_cache)
    found = measure(request, Console(stderr=True, soft_wrap=True, markup=False))
    if not request.quiet:
        print_metrics(Console(), found, request.output)
    return 0


def _export(arguments: list[str]) -> int:
    from jaxsearch.runs.exporting import export_run, parse_export
    from jaxsearch.sweeps.exporting import export_sweep
    from jaxsearch.sweeps.folder import SweepFolder

    request = parse_export(arguments)
    of_sweep = SweepFolder(request.folder).manifest.is_file()
    print((export_sweep if of_sweep else export_run)(request))
    return 0


def _convert(arguments: list[str]) -> int:
    from jaxsearch.runs.converting import convert, parse_convert

    request = parse_convert(arguments)
    print(convert(request))
    return 0


def _list(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(f"usage: jaxsearch list [{' | '.join(_LISTED)}]")
        return 0
    from rich.console import Console

    from jaxsearch.runs.components import catalogue
    from jaxsearch.runs.errors import unknown
    from jaxsearch.runs.report import print_catalogue

    kinds = [name if name.endswith("s") else f"{name}s" for name in arguments]
    for kind, name in zip(kinds, arguments, strict=True):
        if kind not in _LISTED:
            raise unknown("unknown list", name, _LISTED)
    print_catalogue(Console(), catalogue(kinds or _LISTED))
    return 0


def _use_compilation_cache(folder: str | None) -> None:
    """Keeps compiled programs on disk, where the next run of the same shapes finds them."""
    import jax

    if folder is None:
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(base, "jaxsearch", "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # An unwritable folder only costs the time to compile again.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compil")


if __name__ == "__main__":
    sys.exit(main())
