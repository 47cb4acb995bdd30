"""Prompts in free words, of models that are told a text."""

from __future__ import annotations

import collections
import functools
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import PyTree

Encoded = TypeVar("Encoded")


def text_ids(texts: Sequence[str]) -> np.ndarray:
    """The ids [P] int32 of prompts: each says its text and how often that was asked for before.

    It is the CRC-32 of both, without its first bit, so its place in the list is not in it and other
    prompts change nothing. Two texts of one id (a chance of one in 2^31 for a pair) have the same
    noise for different pictures, which does no harm.
    """
    seen: collections.Counter[str] = collections.Counter()
    ids = []
    for text in texts:
        # The number goes first and ends at a space, so no other text and number give these bytes.
        ids.append(zlib.crc32(f"{seen[text]} {text}".encode()) & 0x7FFFFFFF)
        seen[text] += 1
    return np.asarray(ids, np.int32)


def text_encoder(
    network: Callable[..., Encoded],
    params: PyTree,
    tokenise: Callable[[Sequence[str]], np.ndarray | tuple[np.ndarray, ...]],
    *,
    vocab_size: int,
    source: str | os.PathLike[str],
) -> Callable[[Sequence[str]], Encoded]:
    """Texts [P] to what a network makes of each of them: [P, ...] float32, or a tree of such.

    They are encoded once: what was made of a text is kept on the host.

    Args:
        network: `(params, ids [n, length]) -> [n, ...]`, or a tree of such, with what `tokenise`
            gives besides behind the ids; the same object is compiled once.
        params: its weights.
        tokenise: texts to ids, or to ids and more rows [P, ...].
        vocab_size: how many tokens the network knows.
        source: where it is from, for messages.
    """
    # They are needed while prompts are read and never in a search, so they wait on the host.
    params, run = jax.device_get(params), _jitted(network)
    kept: dict[str, PyTree] = {}

    def encode(texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        if new:
            kept.update(zip(new, made(new), strict=True))
        rows = [kept[text] for text in texts]
        return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *rows)

    def made(texts: Sequence[str]) -> list[PyTree]:
        rows = tokenise(texts)
        rows = rows if isinstance(rows, tuple) else (rows,)
        ids = rows[0]
        if ids.max(initial=0) >= vocab_size:
            raise ValueError(
                f"{source}: the tokenizer has a token {ids.max()}, but the text encoder's "
                f"vocab_size is {vocab_size}"
            )
        weights = jax.device_put(params)
        # One by one: in a batch, what is beside a prompt could change its last bits.
        return [
            jax.device_get(run(weights, *(jnp.asarray(part[None]) for part in row)))
            for row in zip(*rows, strict=True)
        ]

    return encode


_jitted: Callable[..., Any] = functools.cache(jax.jit)
"""The same program for the same network, also where a folder is loaded again."""
