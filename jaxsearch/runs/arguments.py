"""From a command line and a config file to a resolved config, by way of jsonargparse.

The parts are named first, since their names decide which settings there are; then the settings are
read by a parser made for just those parts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxsearch.runs.components import model_entry
from jaxsearch.runs.config import KINDS, Component, Config, complete, cycled, overlay, read_config
from jaxsearch.runs.errors import UserError, explained
from jaxsearch.runs.folder import existing
from jaxsearch.runs.settings import (
    CHOICES,
    EXECUTION,
    PLANNING,
    option_of,
    options_in,
    read_settings,
    tables_of,
)
from jaxsearch.searchers import FREE_SIZE
from jaxsearch.zoo.verifiers import FILES, PUBLISHED, located


class Execution(NamedTuple):
    """How a run is carried out; none of it changes the result by more than rounding."""

    output: str | None = None
    checkpoint_seconds: float = 30.0
    compilation_cache: str | None = None
    devices: int | None = None
    model_devices: int = 1
    quiet: bool = False
    grader_concurrency: int = 8


class Planning(NamedTuple):
    """What `plan` is asked for beside the price."""

    topology: str | None = None
    rate: float | None = None  # TFLOP/s of a device
    measure: bool = False


class Request(NamedTuple):
    """What a command line asks for."""

    config: Config
    execution: Execution
    planning: Planning = Planning()
    resume: Path | None = None
    free: str | None = None  # the searcher's setting that the budget is to choose


class NameParser(argparse.ArgumentParser):
    """A parser whose complaints are the user's to read, in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print beside the usage."""
        raise UserError(message)


def _split_names(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The names of parts, verifiers and prompts on a command line, and the rest of it."""
    parser = NameParser(add_help=False, allow_abbrev=False)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", f"--{kind}.name", dest=kind)
    for choice, (nargs, _) in CHOICES.items():
        parser.add_argument(f"--{choice}", nargs=nargs)
    parser.add_argument("--config")
    parser.add_argument("--resume")
    found, rest = parser.parse_known_args(list(argv))
    return {key: value for key, value in vars(found).items() if value is not None}, rest


def parse(argv: Sequence[str], *, command: str, description: str) -> Request:
    """Reads the arguments of `search` and `plan`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    names, rest = _split_names(argv)
    file, resume = names.pop("config", None), names.pop("resume", None)
    if resume is not None:
        return _parse_resume(Path(resume), [*names, *(["config"] if file else [])], rest, command)
    raw = {} if file is None else read_config(Path(file))
    chosen = {key: {"name": value} if key in KINDS else value for key, value in names.items()}
    return _resolve(overlay(raw, chosen), rest, command, description)


def _parse_resume(run: Path, names: list[str], rest: list[str], command: str) -> Request:
    existing(run)
    allowed = {option_of(key) for key in EXECUTION if key != "output"}
    options = [f"--{name}" for name in names] + options_in(rest)
    for option in options:
        if option not in allowed:
            raise UserError(
                f"{option} cannot be combined with --resume: the run goes on with its own config"
            )
    return resolve_file(run / "config.yaml", rest, command=command)._replace(resume=run)


def resolve(raw: Mapping[str, Any], command: str) -> Request:
    """What the entries of a config file ask for, in the form of `read_config`.

    Raises:
        UserError: if they make no sense.
    """
    return _resolve(raw, [], command, "")


def resolve_file(path: Path, argv: Sequence[str] = (), *, command: str = "search") -> Request:
    """What a config file asks for, such as that of a run folder."""
    return _resolve(read_config(path), list(argv), command, "")


def _resolve(raw: Mapping[str, Any], rest: list[str], command: str, description: str) -> Request:
    full = complete(raw)
    # Of prompts, which may be many, nothing is left to be read but that they are texts.
    short = {**full, "prompts": [one.text for one in full["prompts"][:3]]}
    found = read_settings(short, tables_of(full), rest, command, description)
    verifiers = found.get("verifiers", {})

    def component(kind: str) -> Component:
        settings = {key: value for key, value in found[kind].items() if key != "name"}
        return Component(full[kind]["name"], {**settings, **_fitted(kind, raw, found, rest)})

    def verifier(name: str) -> Component:
        settings = dict(verifiers.get(name, {}))
        if name in PUBLISHED:  # a run may be taken up or replayed from anywhere
            with explained(name):
                settings |= {key: located(key, settings[key]) for key in FILES if settings.get(key)}
        return Component(name, settings)

    prompts = cycled(full["prompts"], found["num_prompts"])
    known = any(one.metadata for one in prompts)
    config = Config(
        **{kind: component(kind) for kind in KINDS},
        guide=tuple(verifier(name) for name in full["guide"]),
        report=tuple(verifier(name) for name in full["report"]),
        prompts=tuple(one.text for one in prompts),
        seed=found["seed"],
        budget=found["budget"],
        threshold=found["threshold"],
        microbatch=found["microbatch"],
        metadata=tuple(one.metadata for one in prompts) if known else (),
        grader_fraction=found["grader_fraction"],
    )
    free = FREE_SIZE[config.searcher.name]
    given = free in full["searcher"] or f"--searcher.{free}" in options_in(rest)
    return Request(
        config,
        Execution(**{key: found[key] for key in EXECUTION}),
        Planning(**{key: found[key] for key in PLANNING if key in found}),
        free=None if given or config.budget is None else free,
    )


def _fitted(
    kind: str, raw: Mapping[str, Any], found: Mapping[str, Any], rest: list[str]
) -> dict[str, Any]:
    """What the model's settings decide of another part's, where nobody has said otherwise."""
    model = found["model"]
    with explained(model["name"]):
        own = {**model_entry(model["name"]).fitted(model).get(kind, {})}
    if own.pop("name", None) != found[kind]["name"]:
        return {}
    said = {*raw.get(kind, {}), *options_in(rest)}
    return {key: own[key] for key in own if not {key, f"--{kind}.{key}"} & said}


# ------------------------------------------------------------------------------------------- replay


class ReplayRequest(NamedTuple):
    """What `jaxsearch replay` is asked for."""

    run: Path
    output: Path | None
    compilation_cache: str | None


def parse_replay(argv: Sequence[str]) -> ReplayRequest:
    """Reads the arguments of `replay`.

    Raises:
        UserError: if they make no sense.
        SystemExit: after `--help`.
    """
    parser = NameParser(
        prog="jaxsearch replay",
        description="Make the pictures of a run again from its noise recipes alone, and compare "
        "them with those on disk. Exit status 0: all are identical; 1: some are not.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--output", help="a folder to write the pictures to")
    parser.add_argument("--compilation-cache", help=EXECUTION["compilation_cache"].help)
    found = parser.parse_args(list(argv))
    output = None if found.output is None else Path(found.output)
    return ReplayRequest(Path(found.run), output, found.compilation_cache)
