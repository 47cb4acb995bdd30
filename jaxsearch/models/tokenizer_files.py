"""What tokenizers have in common: the files of their settings, and rows of one length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsearch.models.configs import read_json

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
WHOLE = "tokenizer.json"


def padded(
    encode: Callable[[str], Sequence[int]],
    *,
    length: int,
    first: int | None,
    last: int,
    rest: int,
) -> Callable[[Sequence[str]], np.ndarray]:
    """Texts as rows of one length: start, text, end, padding.

    Args:
        encode: a text's own tokens.
        length: of a row.
        first: the token that texts start with, if they do.
        last: the token that they end with.
        rest: what they are padded with.

    Returns:
        `texts [P] -> ids [P, length]` int32. A text that is too long loses its last tokens, never
        the end's, with a warning.
    """
    start = [] if first is None else [first]
    room = length - 1 - len(start)

    def tokenise(texts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(texts), length), rest, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = list(encode(text))
            if len(ids) > room:
                warnings.warn(
                    f"the prompt {text[:40]!r}... has {len(ids)} tokens: the last "
                    f"{len(ids) - room} are not read",
                    stacklevel=2,
                )
            whole = [*start, *ids[:room], last]
            row[: len(whole)] = whole
        return rows

    return tokenise


def read_settings(folder: Path) -> dict[str, Any]:
    """What both files of settings say; `transformers` gives the same one the last word.

    Raises:
        ValueError: if one cannot be read.
    """
    settings, tokens = (
        read_json(folder / name) if (folder / name).exists() else {} for name in SETTINGS
    )
    # Whoever lists the added tokens has said all in the first file.
    return settings if "added_tokens_decoder" in settings else {**settings, **tokens}


def stated_length(settings: Mapping[str, Any], folder: Path) -> int:
    """The most tokens that the settings allow.

    Raises:
        ValueError: if they say no number of at least 2.
    """
    value = settings.get("model_max_length", np.inf)
    # Where nobody set it, it is 1e30.
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 2:
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {value!r}: it must be a "
            "number of at least 2"
        )
    return int(min(value, 10**6))


def token_of(settings: Mapping[str, Any], key: str, default: str) -> str:
    """A token, which may stand there with notes on the spaces around it.

    Raises:
        ValueError: if something else stands there.
    """
    value = settings.get(key) or default
    value = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(value, str):
        raise ValueError(f"the tokenizer's {key} is {settings[key]!r}: it must be a text")
    return value


def ids_of(tokenizer: Any, tokens: Sequence[str], folder: Path) -> list[int]:
    """The numbers of tokens that every text needs.

    Raises:
        ValueError: if the vocabulary lacks one. The message names it.
    """
    for token in tokens:
        if tokenizer.token_to_id(token) is None:
            raise ValueError(f"the vocabulary in {folder} has no token {token!r}")
    return [tokenizer.token_to_id(token) for token in tokens]


def library() -> Any:
    """The class that reads tokenizers.

    Raises:
        ValueError: if `tokenizers` is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(
            "prompts are read by the library tokenizers: pip install 'jaxsearch[hf]'"
        ) from error
    return Tokenizer


def read_whole(folder: Path) -> Any:
    """The tokenizer of a `tokenizer.json`, without truncation and padding.

    Raises:
        ValueError: if `tokenizers` is not installed, or the file cannot be read.
    """
    kind = library()
    path = folder / WHOLE
    try:
        tokenizer = kind.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"cannot read a tokenizer from {path}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
