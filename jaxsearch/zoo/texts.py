"""Prompts in free words, of models that are told a text."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import PyTree
from jaxsearch.models.folders import part_files
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.placing import SHAPES, placement, placing
from jaxsearch.zoo.text_cache import TextCache

Encoded = TypeVar("Encoded")

_KEPT_AT_ONCE = 32
"""Texts after which what was made of them is written, so that a kill costs no more."""

_KEPT_ON_HOST = 256
"""Texts of which what was made is kept in memory: of T5 XXL they are a gigabyte or two."""

_HELD: contextvars.ContextVar[dict[Callable[[], PyTree], PyTree]] = contextvars.ContextVar("held")


@contextlib.contextmanager
def encoders_held() -> Iterator[None]:
    """Encoders of texts that are read meanwhile stay where they are until its end, not longer.

    Guidance is told a text before there are any prompts, so that an encoder would be read twice.
    """
    token = _HELD.set({})
    try:
        yield
    finally:
        _HELD.reset(token)


def text_ids(texts: Sequence[str]) -> np.ndarray:
    """The ids [P] int32 of prompts: each says its text and how often that was asked for before.

    It is the CRC-32 of both, without its first bit, so its place in the list is not in it and other
    prompts change nothing. Two texts of one id (a chance of one in 2^31 for a pair) have the same
    noise for different pictures, which does no harm.

    Raises:
        ValueError: if there is no prompt, or one where a list of them belongs.
    """
    if isinstance(texts, str):
        raise ValueError(f"prompts are the text {texts!r}: give a list of texts")
    if not len(texts):
        raise ValueError("no prompts: give at least one")
    seen: collections.Counter[str] = collections.Counter()
    ids = []
    for text in texts:
        # The number goes first and ends at a space, so no other text and number give these bytes.
        ids.append(zlib.crc32(f"{seen[text]} {text}".encode()) & 0x7FFFFFFF)
        seen[text] += 1
    return np.asarray(ids, np.int32)


def text_encoder(
    network: Callable[..., Encoded],
    params: PyTree | Callable[[], PyTree],
    tokenise: Callable[[Sequence[str]], np.ndarray | tuple[np.ndarray, ...]],
    *,
    vocab_size: int,
    source: str | os.PathLike[str],
    files: Sequence[Path] = (),
) -> Callable[[Sequence[str]], Encoded]:
    """Texts [P] to what a network makes of each of them: [P, ...] float32, or a tree of such.

    They are encoded once: what was made of the last few hundred is kept on the host, and of more of
    them on disk if it is known what the network is read from. The network's weights are on devices
    only meanwhile, or until the end of `encoders_held`.

    Args:
        network: `(params, ids [n, length]) -> [n, ...]`, or a tree of such, with what `tokenise`
            gives besides behind the ids; the same object is compiled once.
        params: its weights, or what reads them: it is called whenever there are new texts, and what
            it gives is let go afterwards.
        tokenise: texts to ids, or to ids and more rows [P, ...].
        vocab_size: how many tokens the network knows.
        source: where it is from, for messages.
        files: what the network is read from; without any, nothing is kept on disk.
    """
    # What is read later goes where it would go now; what is here already waits on the host.
    where, run = placement() if callable(params) else None, _jitted(network)
    load = _reader(params)
    kept: dict[str, PyTree] = {}

    @functools.cache
    def described(*rows: tuple[tuple[int, ...], np.dtype]) -> tuple[PyTree, str]:
        """The shapes of what is made of tokens of such shapes, and how: the program's text."""
        with placing(SHAPES):
            traced = run.trace(load(), *(jax.ShapeDtypeStruct(*row) for row in rows))
        return traced.out_info, "" if where is SHAPES else traced.lower().as_text()

    def encode(texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        if new:
            kept.update(zip(new, found(new), strict=True))
        rows = [kept[text] for text in texts]
        while len(kept) > _KEPT_ON_HOST:
            del kept[next(iter(kept))]
        return jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)), *rows)

    def found(texts: Sequence[str]) -> list[PyTree]:
        tokens = tokenise(texts)
        tokens = tokens if isinstance(tokens, tuple) else (tokens,)
        # One by one: in a batch, what is beside a prompt could change its last bits.
        rows = [[part[None] for part in row] for row in zip(*tokens, strict=True)]
        ids = tokens[0]
        if ids.max(initial=0) >= vocab_size:
            raise ValueError(
                f"{source}: the tokenizer has a token {ids.max()}, but the text encoder's "
                f"vocab_size is {vocab_size}"
            )
        results: list[PyTree | None] = [None] * len(rows)
        cache = None
        if where is SHAPES or files:
            like, program = described(*((part.shape, part.dtype) for part in rows[0]))
            if where is SHAPES:  # there is nothing to encode with
                return [jax.tree.map(lambda one: np.zeros(one.shape, one.dtype), like)] * len(rows)
            cache = TextCache(files, program, repr(where))
            results = [cache.read(row, like) for row in rows]
        missing = [place for place, result in enumerate(results) if result is None]
        weights = held() if missing else None
        for begin in range(0, len(missing), _KEPT_AT_ONCE):
            some = missing[begin : begin + _KEPT_AT_ONCE]
            for place in some:
                results[place] = jax.device_get(run(weights, *map(jnp.asarray, rows[place])))
            if cache is not None:
                cache.write([rows[place] for place in some], [results[place] for place in some])
        return results

    def held() -> PyTree:
        all_held = _HELD.get({})
        if load not in all_held:
            with placing(where):
                all_held[load] = load()
        return all_held[load]

    return encode


def _reader(params: PyTree | Callable[[], PyTree]) -> Callable[[], PyTree]:
    """What puts weights onto devices."""
    if callable(params):
        return params
    # They are needed while prompts are read and never in a search, so they wait on the host.
    waiting = jax.device_get(params)
    return lambda: jax.device_put(waiting)


_jitted: Callable[..., Any] = functools.cache(jax.jit)
"""The same program for the same network, also where a folder is loaded again."""


def encoder_of_folder(
    folder: Path,
    part: str,
    network: Callable[..., Encoded],
    load: Callable[[], PyTree],
    tokenise: Callable[[Sequence[str]], np.ndarray | tuple[np.ndarray, ...]],
    *,
    vocab_size: int,
) -> Callable[[Sequence[str]], Encoded]:
    """`text_encoder` of a pipeline's folder: kept on disk by the files that it is read from.

    Args:
        folder: of the pipeline.
        part: the encoder's own folder in it.
        network: as of `text_encoder`.
        load: reads its weights.
        tokenise: as of `text_encoder`.
        vocab_size: how many tokens the network knows.

    Raises:
        ValueError: if the weights are in several files and their index cannot be read.
    """
    files = tuple(folder / name for name in part_files(folder, part, OF_TRANSFORMERS))
    return text_encoder(
        network, load, tokenise, vocab_size=vocab_size, source=folder / part, files=files
    )
