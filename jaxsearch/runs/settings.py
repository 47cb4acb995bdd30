"""The settings of the chosen parts, as jsonargparse reads them and shows them."""

from __future__ import annotations

import argparse
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jsonargparse

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.runs.components import Setting, factory_of, settings_of, summary_of
from jaxsearch.runs.config import KINDS
from jaxsearch.runs.errors import UserError, explained, unknown

Tables = Mapping[str, Mapping[str, Setting]]

GENERAL = {
    "num_prompts": Setting(int | None, None, "repeat the prompts until there are this many"),
    "seed": Setting(int, 0, "of all randomness, 0 to 4294967295"),
    "budget": Setting(
        int | None,
        None,
        "most network passes per prompt, backward ones too. It chooses the size of the search "
        "(beam: width; best_of_n, halving, paths: candidates; smc, svdd: particles; mcts: "
        "simulations; evolution, cross_entropy: generations; rollover: quota; others: iterations) "
        "unless that is given too: then a search that needs more is refused. null: no limit",
    ),
    "threshold": Setting(
        float | None,
        None,
        "a score at which the search of a prompt stops, and costs nothing more. null: none",
    ),
    "microbatch": Setting(
        int | None, None, "particles run at once; less needs less memory. null: as many as fit"
    ),
    "grader_fraction": Setting(
        float,
        1.0,
        "of a round's candidates of a prompt, the part that graders among the guides are asked "
        "about: those that the other guides find best, by the mean of their ranks. Above 0, at "
        "most 1",
    ),
}
EXECUTION = {
    "output": Setting(
        str | None, None, "the run folder, new or empty. null: runs/<model>-<searcher>-<time>"
    ),
    "devices": Setting(
        int | None,
        None,
        "devices to search on, which changes no result. null: all accelerators, or the CPU",
    ),
    "model_devices": Setting(
        int,
        1,
        "devices that share one copy of the weights and compute a sample together, for models that "
        "one cannot hold; results then differ by rounding",
    ),
    "checkpoint_seconds": Setting(float, 30.0, "how often a long search is saved, at most"),
    "grader_concurrency": Setting(int, 8, "questions to graders that are under way at once"),
    "compilation_cache": Setting(
        str | None, None, "folder of compiled programs, shared by all runs. null: the user's cache"
    ),
    "quiet": Setting(bool, False, "show no progress and no table"),
}
PLANNING = {
    "topology": Setting(
        str | None,
        None,
        "a TPU topology such as v5e:4x4: compile the search for it, and say its memory",
    ),
    "rate": Setting(
        float | None, None, "TFLOP/s that a device reaches: say how long the search takes"
    ),
    "measure": Setting(bool, False, "measure that rate here, by a few network passes"),
}
"""Of `plan` alone."""

_NAMES = {
    "model": "NAME the base model to search, the folder of a checkpoint, or its id on the hub",
    "solver": "NAME the sampler",
    "schedule": "NAME the noise levels that the sampler visits",
    "searcher": "NAME what decides which noise is tried next",
    "value": "NAME which clean estimate of a partial sample is scored",
    "aggregate": "NAME how the scores of several guides become one",
}
CHOICES = {
    "guide": ("+", "VERIFIER the score to search for; several are added up"),
    "report": ("*", "VERIFIER further scores to report, which the search never sees"),
    "prompts": (
        "+",
        "PROMPT what to ask the model for; @FILE takes those of a file (text, CSV, TSV, JSON)",
    ),
}


def option_of(key: str) -> str:
    """The option of a general setting."""
    return "--" + key.replace("_", "-")


def options_in(tokens: Sequence[str]) -> list[str]:
    """The options among the words of a command line, without their values."""
    return [token.split("=", 1)[0] for token in tokens if token.startswith("--")]


def tables_of(full: Mapping[str, Any]) -> Tables:
    """Key prefix -> settings, for each part and each chosen verifier."""
    model = full["model"]["name"]
    tables: dict[str, dict[str, Setting]] = {}
    for kind in KINDS:
        given = {key: value for key, value in full[kind].items() if key != "name"}
        tables[kind] = _checked(kind, full[kind]["name"], model, given)
    chosen = full["guide"] + full["report"]
    for name in chosen:
        given = full["verifiers"].get(name, {})
        tables[f"verifiers.{name}"] = _checked("verifier", name, model, given)
    for name in full["verifiers"]:
        if name not in chosen:
            factory_of("verifier", str(name), model)  # names the nearest where it is misspelt
            raise UserError(
                f"verifiers.{name} has settings, but {name} is no guide and no report: name it in "
                "one of them, or leave its settings out"
            )
    return tables


def _checked(kind: str, name: str, model: str, given: Mapping[str, Any]) -> dict[str, Setting]:
    settings = settings_of(factory_of(kind, name, model))
    if not isinstance(given, Mapping):
        raise UserError(f"settings of {name} are {given!r}: write '{name}: {{...}}'")
    for key in given:
        if key not in settings:
            raise unknown(f"{name} has no setting", str(key), settings)
    return settings


class _Help(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that leaves the lines of its examples alone."""


def _parser(
    full: Mapping[str, Any], tables: Tables, prog: str, description: str
) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [options]",
        description=description,
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,
    )
    model = full["model"]["name"]
    for kind in KINDS:
        name = full[kind]["name"]
        group = parser.add_argument_group(
            f"{kind}: {name}", summary_of(factory_of(kind, name, model))
        )
        _add_shown(group, kind, _NAMES[kind], name, None)
        _add_settings(group, f"{kind}.", tables[kind])
    group = parser.add_argument_group("verifiers", "see `jaxsearch list verifiers`")
    for choice, (nargs, text) in CHOICES.items():
        _add_shown(group, choice, text, full[choice], nargs)
    for prefix, settings in tables.items():
        if prefix.startswith("verifiers."):
            _add_settings(group, f"{prefix}.", settings)
    group = parser.add_argument_group("general")
    _add_settings(group, "", GENERAL)
    group.add_argument("--config", type=str, help="a config file (YAML); options override it")
    group = parser.add_argument_group("the run")
    group.add_argument("--resume", metavar="RUN", type=str, help="go on with a stopped run")
    _add_settings(group, "", EXECUTION)
    if prog.endswith(" plan"):
        _add_settings(parser.add_argument_group("the plan"), "", PLANNING)
    return parser


def _add_shown(group: Any, key: str, text: str, default: Any, nargs: str | None) -> None:
    """Adds an option for the help page; `_split_names` is what reads it."""
    metavar, text = text.split(" ", 1)
    key = f"{key}.name" if key in KINDS else key
    group.add_argument(
        f"--{key}", type=str, default=default, nargs=nargs, metavar=metavar, help=text
    )


def _add_settings(group: Any, prefix: str, settings: Mapping[str, Setting]) -> None:
    for name, setting in settings.items():
        option = option_of(name) if not prefix else f"--{prefix}{name}"
        text = setting.help.replace("%", "%%").replace("`", "")
        if setting.type is bool and setting.default is False and not prefix:
            group.add_argument(option, action="store_true", help=text)
        else:
            group.add_argument(option, type=setting.type, default=setting.default, help=text)


def _print_help(parser: jsonargparse.ArgumentParser, full: Mapping[str, Any]) -> None:
    parser.set_defaults(_flat(full))
    for action in parser._actions:  # `--searcher` is short for `--searcher.name`
        action.option_strings = [text.removesuffix(".name") for text in action.option_strings]
    parser.print_help()


def _flat(full: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in full.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


# ------------------------------------------------------------------------------------------- checks


def read_settings(
    full: Mapping[str, Any], tables: Tables, rest: Sequence[str], command: str, description: str
) -> dict[str, Any]:
    """All settings of a run: those of its config, and above them those of the command line.

    Args:
        full: a config in which every part has its name.
        tables: of `full`.
        rest: the command line without the names of parts, verifiers and prompts.
        command: for the help page, as is `description`.

    Raises:
        UserError: for a setting that does not exist, or a value of the wrong type.
        SystemExit: after `--help`.
    """
    parser = _parser(full, tables, f"jaxsearch {command}", description)
    if {"-h", "--help"} & set(rest):
        _print_help(parser, full)
        raise SystemExit(0)
    _check_options(rest, parser, full, tables)
    try:
        below = parser.parse_object(full)
        found = parser.parse_args(list(rest), namespace=below).as_dict()
    except (argparse.ArgumentError, TypeError) as error:
        raise _one_line(str(error), tables) from error
    _check_nulls(found, tables)
    _check_general(found)
    return found


def _check_options(
    rest: Sequence[str],
    parser: jsonargparse.ArgumentParser,
    full: Mapping[str, Any],
    tables: Tables,
) -> None:
    """Refuses options that do not exist, naming those that come nearest."""
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    for option in options_in(rest):
        if option in known:
            continue
        prefix, _, setting = option.removeprefix("--").rpartition(".")
        if prefix in KINDS:
            raise unknown(f"{full[prefix]['name']} has no setting", setting, tables[prefix])
        if prefix.startswith("verifiers.") and prefix not in tables:
            name = prefix.removeprefix("verifiers.")
            raise UserError(f"{option}: {name} is no guide and no report of this run")
        raise unknown("unknown option", option, known)


def _check_nulls(found: Mapping[str, Any], tables: Tables) -> None:
    """Refuses null for what is no choice of none; jsonargparse takes it for a default."""
    flat = _flat(found)
    for prefix, settings in {"": {**GENERAL, **EXECUTION}, **tables}.items():
        for name, setting in settings.items():
            key = f"{prefix}.{name}" if prefix else name
            if flat.get(key, ...) is None and type(None) not in typing.get_args(setting.type):
                raise UserError(f"{key} is null: pass {_type_name(setting.type)}")


def check_seed(seed: Any) -> None:
    """Refuses what is no seed.

    Raises:
        UserError: if it is none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"seed is {seed!r}: pass a whole number")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}: it must lie in [0, 4294967295]")


def _check_general(found: Mapping[str, Any]) -> None:
    check_seed(found["seed"])
    for key in ("num_prompts", "microbatch"):
        if found[key] is not None:
            with explained(key):
                check_count(key, found[key])
    if found["budget"] is not None and found["budget"] < 1:
        raise UserError(f"budget is {found['budget']}: it must be at least 1")
    with explained("grader_fraction"):
        check_range("grader_fraction", found["grader_fraction"], 0.0, 1.0, open_low=True)
    with explained("grader_concurrency"):
        check_count("grader_concurrency", found["grader_concurrency"])
    rate = found.get("rate")
    if rate is not None:
        with explained("rate"):
            check_range("rate", rate, 0.0, open_low=True)
    if not found["checkpoint_seconds"] >= 0:
        seconds = found["checkpoint_seconds"]
        raise UserError(f"checkpoint_seconds is {seconds}: it must be 0 or more")


def _one_line(message: str, tables: Tables) -> UserError:
    """What jsonargparse says of a wrong value, in one line."""
    key = re.search(r'key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)\s*$", message)
    if key is None or value is None:
        return UserError(" ".join(message.split()))
    prefix, _, name = key.group(1).rpartition(".")
    setting = tables.get(prefix, {**GENERAL, **EXECUTION}).get(name)
    wanted = f": pass {_type_name(setting.type)}" if setting else ""
    return UserError(f"{key.group(1)} is {value.group(1).strip()!r}{wanted}")


def _type_name(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(str(argument) for argument in arguments)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if arguments:
        return f"a list such as [{', '.join(_type_name(argument) for argument in arguments)}]"
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return words.get(hint, "a text" if hint is str else getattr(hint, "__name__", str(hint)))
