"""Noise recipes as a file: a few kilobytes from which a sample can be made again.

`recipes.jsonl` holds a header and one line per prompt. A line lists the terms of each noise,
`[row, key, coefficient]` in the order in which they are summed: row 0 is the initial noise, row
`i + 1` what solver step `i` injects; the key is the PRNG key's data in hexadecimal, the coefficient
a float32 written exactly. Terms with coefficient 0 are left out. Every line carries the SHA-256 of
the rest of it, so that damage is found and named.

Where noises have a free part the header has its shape, and a line lists the parts too,
`[row, numbers]`: little-endian float32 in base64, in row-major order. Parts without a bit set are
left out. Such a file is of version 2, so that no reader takes it for one without.

A sample that was renoised on its way has legs besides, one for each time, in their order: `end`,
the step at which that happened; `back`, the step to which it was taken; and `noise`, whose row 0 is
what renoised it and whose row `i + 1` solver step `i` injected on the way there.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Legs, Noise
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import read_text, write_atomic

_FORMAT = "jaxsearch noise recipes, version 1"
_FORMAT_WITH_FREE = "jaxsearch noise recipes, version 2"


def write_recipes(
    path: Path,
    noise: Noise,
    ids: Sequence[int],
    prompts: Sequence[str],
    *,
    legs: Legs | None = None,
) -> None:
    """Writes the recipes of the samples of some prompts: noises [P, T + 1, M] and legs [P, B]."""
    header, recipes = _contents(noise, ids, prompts, legs)
    write_atomic(path, "".join(_sealed(line) + "\n" for line in [header, *recipes]))


def recipe_files(
    noise: Noise, ids: Sequence[int], prompts: Sequence[str], legs: Legs | None
) -> list[str]:
    """The recipes of some prompts, each as the text of a file of its own."""
    header, recipes = _contents(noise, ids, prompts, legs)
    first = _sealed({**header, "recipes": 1})
    return [f"{first}\n{_sealed(recipe)}\n" for recipe in recipes]


def _contents(
    noise: Noise, ids: Sequence[int], prompts: Sequence[str], legs: Legs | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the recipes of a file."""
    header: dict[str, Any] = {
        "format": _FORMAT,
        "keys": str(jax.random.key_impl(noise.keys)),
        "rows": noise.coefs.shape[1],
        "recipes": noise.coefs.shape[0],
    }
    recipes: list[dict[str, Any]] = [
        {"id": int(index), "prompt": prompt, "noise": terms}
        for index, prompt, terms in zip(ids, prompts, _terms(noise), strict=True)
    ]
    if noise.free is not None:
        free = np.asarray(noise.free, "<f4")
        header |= {"format": _FORMAT_WITH_FREE, "shape": list(free.shape[2:])}
        for recipe, parts in zip(recipes, free, strict=True):
            recipe["free"] = _written(parts)
    if legs is not None:
        header["legs"] = legs.end.shape[1]
        for recipe, one in zip(recipes, _legs_terms(legs), strict=True):
            recipe["legs"] = one
    return header, recipes


def _terms(noise: Noise) -> list[list[list[Any]]]:
    """The terms of each of the recipes [P, rows, M]."""
    data = np.asarray(jax.random.key_data(noise.keys))
    return [
        [
            [row, keys[row, term].astype(">u4").tobytes().hex(), float(coefs[row, term])]
            for row, term in np.argwhere(coefs).tolist()
        ]
        for keys, coefs in zip(data, np.asarray(noise.coefs), strict=True)
    ]


def _legs_terms(legs: Legs) -> list[list[dict[str, Any]]]:
    """The legs [P, B] that particles have gone, without those before their first."""
    noise = jax.tree.map(lambda leaf: leaf.reshape((-1, *leaf.shape[2:])), legs.noise)
    ends, backs = np.asarray(legs.end), np.asarray(legs.back)
    terms = iter(_terms(noise))
    return [
        [
            {"end": end, "back": back, "noise": one}
            for end, back, one in zip(*pair, itertools.islice(terms, len(pair[0])), strict=True)
            if back < end
        ]
        for pair in zip(ends.tolist(), backs.tolist(), strict=True)
    ]


def read_recipes(path: Path) -> tuple[Noise, Legs | None]:
    """The recipes of a file: noises [P, T + 1, M], and legs [P, B] where it holds any.

    Raises:
        UserError: if the file cannot be read or a line of it is damaged.
    """
    lines = read_text(path, "the recipe file").splitlines()
    if not lines:
        raise UserError(f"{path} is damaged: it is empty")
    header = _opened(lines[0], path, 1)
    if header.get("format") not in (_FORMAT, _FORMAT_WITH_FREE):
        raise UserError(f"{path} is no recipe file of this version: line 1 must say {_FORMAT!r}")
    if len(lines) != header["recipes"] + 1:
        raise UserError(
            f"{path} is damaged: it has {len(lines) - 1} of its {header['recipes']} recipes"
        )
    recipes = [_opened(line, path, number) for number, line in enumerate(lines[1:], 2)]
    num_rows, keys = header["rows"], header["keys"]
    noise = [recipe["noise"] for recipe in recipes]
    if "legs" not in header:
        read = _noise(noise, num_rows, keys)
        if header["format"] == _FORMAT_WITH_FREE:
            read = read._replace(free=_free(recipes, num_rows, header["shape"], path))
        return read, None
    # The legs are read as further recipes, so that both have the same number of terms.
    nothing = {"end": 0, "back": 0, "noise": []}
    legs = [
        leg
        for recipe in recipes
        for leg in [nothing] * (header["legs"] - len(recipe["legs"])) + recipe["legs"]
    ]
    read = _noise(noise + [leg["noise"] for leg in legs], num_rows, keys)
    num, shape = len(recipes), (len(recipes), header["legs"])
    first = jax.tree.map(lambda leaf: leaf[:num], read)
    rest = jax.tree.map(lambda leaf: leaf[num:].reshape((*shape, *leaf.shape[1:])), read)
    end, back = (
        jnp.asarray([leg[name] for leg in legs], jnp.int32).reshape(shape)
        for name in ("end", "back")
    )
    return first, Legs(rest, end, back)


def _free(
    recipes: Sequence[dict[str, Any]], num_rows: int, shape: Sequence[int], path: Path
) -> jax.Array:
    """The free parts [P, rows, *E] of recipes."""
    free = np.zeros((len(recipes), num_rows, *shape), np.float32)
    for place, recipe in enumerate(recipes):
        for row, text in recipe["free"]:
            free[place, row] = _read(text, shape, path, place + 2)
    return jnp.asarray(free)


def _written(rows: np.ndarray) -> list[list[int | str]]:
    """The free parts [T + 1, *E], little-endian float32, of which a bit is set."""
    return [
        [row, base64.b64encode(numbers).decode("ascii")]
        for row, numbers in enumerate(part.tobytes() for part in rows)
        if any(numbers)
    ]


def _read(text: str, shape: Sequence[int], path: Path, number: int) -> np.ndarray:
    """One free part [*E]."""
    try:
        numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged at line {number}: a free part is no base64 of float32"
        ) from error
    if numbers.size != math.prod(shape):
        raise UserError(
            f"{path} is damaged at line {number}: a free part has {numbers.size} numbers instead "
            f"of {math.prod(shape)}"
        )
    return numbers.reshape(shape)


def _noise(recipes: Sequence[Sequence[Any]], num_rows: int, implementation: str) -> Noise:
    width = len(jax.random.key_data(jax.random.key(0, impl=implementation)))
    used = np.zeros((len(recipes), num_rows), np.int32)
    for prompt, terms in enumerate(recipes):
        for row, _, _ in terms:
            used[prompt, row] += 1
    rank = max(int(used.max()), 1)
    data = np.zeros((len(recipes), num_rows, rank, width), np.uint32)
    coefs = np.zeros((len(recipes), num_rows, rank), np.float32)
    slots = np.zeros_like(used)
    for prompt, terms in enumerate(recipes):
        for row, key, coef in terms:
            slot = slots[prompt, row]
            data[prompt, row, slot] = np.frombuffer(bytes.fromhex(key), ">u4")
            coefs[prompt, row, slot] = coef
            slots[prompt, row] += 1
    keys = jax.random.wrap_key_data(jnp.asarray(data), impl=implementation)
    return Noise(keys, jnp.asarray(coefs))


def _sealed(content: dict[str, Any]) -> str:
    text = json.dumps(content, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, allow_nan=False)


def _opened(line: str, path: Path, number: int) -> dict[str, Any]:
    """The content of a line whose checksum is right."""
    try:
        content = json.loads(line)
        digest = content.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged at line {number}: it is no recipe") from error
    if hashlib.sha256(json.dumps(content).encode()).hexdigest() != digest:
        raise UserError(f"{path} is damaged at line {number}: its checksum does not match")
    return content
