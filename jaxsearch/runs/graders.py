"""Graders as the command offers them: the settings of their clients are theirs.

They are named where verifiers are. One joins by its factory in `jaxsearch.graders` and its line in
`_MAKERS`. A run may have one several times, with settings of their own, under names such as
`five_aspects@small`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import docstring_parser
import jax.numpy as jnp
import numpy as np

from jaxsearch import graders
from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.graders import Client, Grader
from jaxsearch.models.digests import digest
from jaxsearch.verifiers.facts import Facts, facts

Factory = Callable[..., Grader]


def _client(
    name: str,
    *,
    url: str = "",
    model: str = "",
    api_key_variable: str = "",
    timeout: float = 60.0,
    retries: int = 3,
    backoff: float = 1.0,
    max_requests: int | None = None,
    max_cost: float | None = None,
    price: tuple[float, float] = (0.0, 0.0),
) -> Client:
    """Who asks for a grader.

    Args:
        name: of the grader, for messages.
        url: of an OpenAI-compatible interface, such as http://localhost:8000/v1.
        model: the model's name there.
        api_key_variable: the environment variable that holds the key, such as OPENAI_API_KEY; the
            key itself is written nowhere. Empty: no key is sent.
        timeout: seconds that one attempt may take, to the last byte.
        retries: further attempts after one that failed in a way that may pass.
        backoff: seconds before the first of them; twice as many before each one more.
        max_requests: the most attempts of the run; what would be asked after that is a failure.
            null: any number.
        max_cost: the most that the run may pay, in the unit of the price; what would be asked
            after that is a failure. null: anything.
        price: of a million tokens of questions, and of answers.

    Raises:
        ValueError: if there is no address, model or key, or a number is out of its range.
    """
    for setting, value, example in (
        ("url", url, "http://localhost:8000/v1"),
        ("model", model, "Qwen/Qwen3-VL-8B-Instruct"),
    ):
        if not value:
            raise ValueError(
                f"{name} asks a server: give --verifiers.{name}.{setting}, such as {example}"
            )
    return Client(
        url=url, model=model, api_key=_key_in(api_key_variable), timeout=timeout, retries=retries,
        backoff=backoff, max_requests=max_requests, max_cost=max_cost, price=price,
    )  # fmt: skip


def _key_in(variable: str) -> str:
    if not variable:
        return ""
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable):  # it may be the key, so it is not said
        raise ValueError(
            "api_key_variable is not the name of an environment variable: put the key into one, "
            "such as OPENAI_API_KEY, and give its name"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} is not set: put the key into it")
    return key


def _told(grader: Grader, *, told: str = "{}") -> Grader:
    """A grader that is told something else than the prompt.

    Args:
        grader: any.
        told: what it is told of a prompt; {} stands for the prompt, as in "a handwritten {}".

    Raises:
        ValueError: if there is not one {}.
    """
    if told.count("{}") != 1:
        raise ValueError(f"told is {told!r}: it must have one {{}}, where the prompt goes")
    if told == "{}":
        return grader

    def grade(image: np.ndarray, prompt: str) -> graders.Grade:
        return grader.grade(image, told.replace("{}", prompt))

    return dataclasses.replace(grader, identity=f"{grader.identity} {told}", grade=grade)


def _behind_http(ask: Factory, name: str) -> Factory:
    """The factory of a grader that makes its client too, with the settings of both.

    Args:
        ask: makes it with a client.
        name: that it has in a run.
    """
    parts = [_own_settings(part) for part in (_client, ask, _told)]

    def make(**settings: Any) -> Grader:
        client, own, told = (
            {key: settings[key] for key in part if key in settings} for part in parts
        )
        return _told(ask(_client(name, **client), name=name, **own), **told)

    return _described(make, ask, [_client, ask, _told])


def _own_settings(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "name"
    }


def _described(make: Factory, ask: Factory, parts: list[Callable[..., Any]]) -> Factory:
    """Gives a factory the settings of its parts, with their types and texts, and one's line."""
    settings: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    lines = [(inspect.getdoc(ask) or "").split("\n")[0], "", "Args:"]
    for part in parts:
        own = _own_settings(part)
        settings |= own
        hints |= {name: typing.get_type_hints(part)[name] for name in own}
        parsed = docstring_parser.parse(part.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        for param in parsed.params:
            if param.arg_name in own:
                lines.append(f"    {param.arg_name}: {' '.join((param.description or '').split())}")
    make.__name__, make.__doc__, make.__annotations__ = ask.__name__, "\n".join(lines), hints
    make.__signature__ = inspect.Signature(list(settings.values()))  # type: ignore[attr-defined]
    return make


def _function(name: str, *, path: str = "", parallel: bool = False, told: str = "{}") -> Grader:
    """Asks a function of Python, which is given a picture (uint8 [h,w,c]) and its prompt.

    Args:
        name: that it has in a run.
        path: the module and the function in it, such as my_module:score; the module is looked for
            in the folder of the command, too. Grades are kept under this and the module's text.
        parallel: whether it may be called from several threads at once.
        told: what it is told of a prompt; {} stands for the prompt.

    Raises:
        ValueError: if there is no such function.
    """
    file, own = _module_file(path, name), path.partition(":")[2]
    try:
        module = importlib.import_module(path.partition(":")[0])
    except Exception as error:  # of a module that anybody may have written
        raise ValueError(
            f"cannot import the module of {path}: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, own, None)
    if not callable(found):
        raise ValueError(f"{path}: {module.__name__} has no function {own!r}")
    identity = f"{path} {digest(file)}"
    made = graders.function(name, found, identity=identity, parallel=parallel)
    return _told(made, told=told)


def _module_file(path: str, name: str) -> Path:
    """The file of the module that `module:function` names, for the grader of a name.

    Raises:
        ValueError: if there is none.
    """
    if not re.fullmatch(r"[\w.]+:\w+", path):
        raise ValueError(
            f"path is {path!r}: give the module and the function in it by "
            f"--verifiers.{name}.path, such as my_module:score"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module = path.partition(":")[0]
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or not found.origin or not os.path.isfile(found.origin):
        raise ValueError(f"path is {path!r}: there is no module {module} here, in {os.getcwd()}")
    return Path(found.origin)


def _of_function(name: str) -> Factory:
    def make(**settings: Any) -> Grader:
        return _function(name, **settings)

    return _described(make, _function, [_function])


def deciding(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a verifier that decide what is found: not what a client may pay or wait."""
    if not is_grader(name):
        return dict(settings)
    how = _own_settings(_client).keys() - {"url", "model"}
    return {key: value for key, value in settings.items() if key not in how}


_HTTP = "a model behind HTTP"
_MAKERS: dict[str, tuple[Facts, Callable[[str], Factory]]] = {
    "five_aspects": (
        Facts((0, 100), "no", ("prompt",), _HTTP),
        functools.partial(_behind_http, graders.five_aspects),
    ),
    "function": (Facts((-math.inf, math.inf), "no", ("prompt",)), _of_function),
    "question_answer": (
        Facts((0, 1), "no", ("prompt",), _HTTP),
        functools.partial(_behind_http, graders.question_answer),
    ),
}
"""By their kind: their facts, and what makes the factory of one of a name."""


def kind_of(name: str) -> str | None:
    """The kind of a grader that is called so, such as `five_aspects`; None of what is no grader."""
    kind = name.partition("@")[0]
    return kind if kind in _MAKERS else None


def is_grader(name: str) -> bool:
    """Whether a verifier of the command is one."""
    return kind_of(name) is not None


@functools.cache
def factory_of(name: str) -> Factory:
    """The factory of the grader that has a name: its kind, or that with `@` and a word behind it.

    Raises:
        ValueError: if there is no such kind, or the word has characters that cannot be in it.
    """
    kind = kind_of(name)
    if kind is None:
        raise ValueError(f"{name} is no grader: there are {', '.join(_MAKERS)}")
    if not re.fullmatch(r"[\w-]+", name.removeprefix(f"{kind}@"), re.ASCII):
        raise ValueError(
            f"{name!r} is no name of a grader: behind the @ comes a word of letters, digits, _ and "
            f"-, such as {kind}@small"
        )
    stated, make = _MAKERS[kind]
    return facts(stated)(make(name))


GRADERS: dict[str, Factory] = {kind: factory_of(kind) for kind in _MAKERS}
"""By their kind, which is the name of one that is alone in a run."""


def files_of(name: str, settings: Mapping[str, Any]) -> dict[str, Path]:
    """What a grader's answers hang on of this machine, by names that do not say where it is.

    What is not there is left out: to make pictures again, nobody is asked.
    """
    if kind_of(name) != "function":
        return {}
    with contextlib.suppress(ValueError):
        path = settings["path"]
        return {"function/" + path.partition(":")[0]: _module_file(path, name)}
    return {}


def placeholder(name: str) -> Verifier:
    """What stands for a grader in a program, where it cannot be asked: it fails all images."""
    return Verifier(name=name, apply=_fails)


def _fails(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
    del params, context
    return jnp.full((images.shape[0],), jnp.nan)
