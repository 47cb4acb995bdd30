"""Noise recipes as a file: a few kilobytes from which a sample can be made again.

`recipes.jsonl` holds a header and one line per prompt. A line lists the terms of each noise,
`[row, key, coefficient]` in the order in which they are summed: row 0 is the initial noise, row
`i + 1` what solver step `i` injects; the key is the PRNG key's data in hexadecimal, the coefficient
a float32 written exactly. Terms with coefficient 0 are left out. Every line carries the SHA-256 of
the rest of it, so that damage is found and named.
"""

from __future__ import annotations

import hashlib
import json
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
    lines = [_sealed(header)]
    for keys, row_coefs, index, prompt in zip(data, coefs, ids, prompts, strict=True):
        terms = [
            [row, keys[row, term].astype(">u4").tobytes().hex(), float(row_coefs[row, term])]
            for row, term in np.argwhere(row_coefs).tolist()
        ]
        lines.append(_sealed({"id": int(index), "prompt": prompt, "noise": terms}))
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
    if header.get("format") != _FORMAT:
        raise UserError(f"{path} is no recipe file of this version: line 1 must say {_FORMAT!r}")
    if len(lines) != header["recipes"] + 1:
        raise UserError(
            f"{path} is damaged: it has {len(lines) - 1} of its {header['recipes']} recipes"
        )
    recipes = [_opened(line, path, number)["noise"] for number, line in enumerate(lines[1:], 2)]
    return _noise(recipes, header["rows"], header["keys"])


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
