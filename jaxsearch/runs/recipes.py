"""Noise recipes as a file: a few kilobytes from which a sample can be made again.

`recipes.jsonl` holds a header and one line per prompt. A line lists the terms of each noise,
`[row, key, coefficient]` in the order in which they are summed: row 0 is the initial noise, row
`i + 1` what solver step `i` injects; the key is the PRNG key's data in hexadecimal, the coefficient
a float32 written exactly. Terms with coefficient 0 are left out. Every line carries the SHA-256 of
the rest of it, so that damage is found and named.

Where noises have a free part the header has its shape, and a line lists the parts too,
`[row, numbers]`: little-endian float32 in base64, in row-major order. Parts without a bit set are
left out. Such a file is of version 2, so that no reader takes it for one without.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Noise
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.files import read_text, write_atomic

_FORMAT = "jaxsearch noise recipes, version 1"
_FORMAT_WITH_FREE = "jaxsearch noise recipes, version 2"


def write_recipes(path: Path, noise: Noise, ids: Sequence[int], prompts: Sequence[str]) -> None:
    """Writes the recipes [P, T + 1, M] of the samples of some prompts."""
    data = np.asarray(jax.random.key_data(noise.keys))
    coefs = np.asarray(noise.coefs)
    header = {
        "format": _FORMAT,
        "keys": str(jax.random.key_impl(noise.keys)),
        "rows": coefs.shape[1],
        "recipes": coefs.shape[0],
    }
    free = None if noise.free is None else np.asarray(noise.free, "<f4")
    if free is not None:
        header |= {"format": _FORMAT_WITH_FREE, "shape": list(free.shape[2:])}
    lines = [_sealed(header)]
    rows = zip(data, coefs, ids, prompts, strict=True)
    for place, (keys, row_coefs, index, prompt) in enumerate(rows):
        terms = [
            [row, keys[row, term].astype(">u4").tobytes().hex(), float(row_coefs[row, term])]
            for row, term in np.argwhere(row_coefs).tolist()
        ]
        line = {"id": int(index), "prompt": prompt, "noise": terms}
        if free is not None:
            line["free"] = _written(free[place])
        lines.append(_sealed(line))
    write_atomic(path, "".join(line + "\n" for line in lines))


def read_recipes(path: Path) -> Noise:
    """The recipes [P, T + 1, M] of a file.

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
    noise = _noise([recipe["noise"] for recipe in recipes], header["rows"], header["keys"])
    if header["format"] == _FORMAT:
        return noise
    free = np.zeros((len(recipes), header["rows"], *header["shape"]), np.float32)
    for place, recipe in enumerate(recipes):
        for row, text in recipe["free"]:
            free[place, row] = _read(text, header["shape"], path, place + 2)
    return noise._replace(free=jnp.asarray(free))


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
