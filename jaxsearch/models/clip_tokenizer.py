"""Texts as the tokens that CLIP's text encoder was trained with, on the host.

Byte pairs are merged by the `tokenizers` library, from the files that a pipeline has in its
`tokenizer/`: `vocab.json` and `merges.txt`, or `tokenizer.json`, which holds both.

Reference: Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
supervision*, 2021, section 2.4, https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.models.configs import read_json

_START, _END = "<|startoftext|>", "<|endoftext|>"
_ENDS_WORD = "</w>"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")

FILES = ("tokenizer.json", "vocab.json", "merges.txt", *_SETTINGS)
"""What a folder may have of all that is read here."""

# What is merged for itself: the ends of a text, English contractions, runs of letters, single
# digits, and runs of anything else that is no space.
_PIECES = "|".join(
    [
        *(rf"<\|{name}\|>" for name in ("startoftext", "endoftext")),
        *(f"'{ending}" for ending in ("s", "t", "re", "ve", "m", "ll", "d")),
        *(r"\p{L}+", r"\p{N}", r"[^\s\p{L}\p{N}]+"),
    ]
)


def load_clip_tokenizer(
    folder: str | os.PathLike[str], *, length: int = 77
) -> Callable[[Sequence[str]], np.ndarray]:
    """Reads a tokenizer from a folder that `transformers` wrote: `tokenizer/` of a pipeline.

    Args:
        folder: with `tokenizer.json`, or `vocab.json` and `merges.txt`; `tokenizer_config.json` and
            `special_tokens_map.json` may say what texts begin, end and are padded with, and the
            former at how many tokens they end.
        length: the most tokens, at least 2.

    Returns:
        `texts [P] -> ids [P, length]` int32: start, text, end, padding. A text that is too long
        loses its last tokens, never the end's, with a warning.

    Raises:
        ValueError: if `tokenizers` is not installed, a file cannot be read, or the vocabulary lacks
            a token that every text needs. The message names it.
    """
    check_count("length", length, 2)
    folder = Path(folder)
    settings = _settings(folder)
    length = min(length, _stated_length(settings, folder))
    start, end = (_content(settings, key, default) for key, default in _ENDS.items())
    padding = _content(settings, "pad_token", end)
    unknown = _content(settings, "unk_token", end)
    tokenizer = _read(folder, unknown)
    for token in (start, end, padding):
        if tokenizer.token_to_id(token) is None:
            raise ValueError(f"the vocabulary in {folder} has no token {token!r}")
    # They are tokens wherever in a text they are written, also `!` where that is the padding.
    tokenizer.add_special_tokens(list(dict.fromkeys([start, end, padding, unknown])))
    first, last, rest = (tokenizer.token_to_id(token) for token in (start, end, padding))

    def tokenise(texts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(texts), length), rest, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            if len(ids) > length - 2:
                unread = len(ids) - (length - 2)
                warnings.warn(
                    f"the prompt {text[:40]!r}... has {len(ids)} tokens: the last {unread} "
                    "are not read",
                    stacklevel=2,
                )
            ids = ids[: length - 2]
            row[: len(ids) + 2] = [first, *ids, last]
        return rows

    return tokenise


_ENDS = {"bos_token": _START, "eos_token": _END}


def _settings(folder: Path) -> dict[str, Any]:
    """What both files of settings say; `transformers` gives the same one the last word."""
    settings, tokens = (
        read_json(folder / name) if (folder / name).exists() else {} for name in _SETTINGS
    )
    # Whoever lists the added tokens has said all in the first file.
    return settings if "added_tokens_decoder" in settings else {**settings, **tokens}


def _stated_length(settings: Mapping[str, Any], folder: Path) -> int:
    value = settings.get("model_max_length", np.inf)
    # Where nobody set it, it is 1e30.
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 2:
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {value!r}: it must be a "
            "number of at least 2"
        )
    return int(min(value, 10**6))


def _content(settings: Mapping[str, Any], key: str, default: str) -> str:
    """A token, which may stand there with notes on the spaces around it."""
    value = settings.get(key) or default
    value = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(value, str):
        raise ValueError(f"the tokenizer's {key} is {settings[key]!r}: it must be a text")
    return value


def _read(folder: Path, unknown: str) -> Any:
    """The tokenizer of a folder, without truncation and padding."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(
            "prompts are read by the library tokenizers: pip install 'jaxsearch[hf]'"
        ) from error
    whole = folder / "tokenizer.json"
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not whole.exists():
        for path in (vocabulary, merges):
            if not path.exists():
                raise ValueError(f"cannot read {path}: no such file, and no {whole.name} either")
    try:
        if not whole.exists():
            return _byte_pairs(vocabulary, merges, unknown)
        tokenizer = Tokenizer.from_file(str(whole))
    except Exception as error:  # the library raises nothing narrower
        path = whole if whole.exists() else vocabulary
        raise ValueError(f"cannot read a tokenizer from {path}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _byte_pairs(vocabulary: Path, merges: Path, unknown: str) -> Any:
    """Texts composed, in small letters, single-spaced and cut into pieces; their bytes merged."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC, Lowercase, Replace
    from tokenizers.normalizers import Sequence as Normalisers
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as Cutters

    tokenizer = Tokenizer(
        BPE.from_file(
            str(vocabulary), str(merges), unk_token=unknown, end_of_word_suffix=_ENDS_WORD
        )
    )
    tokenizer.normalizer = Normalisers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    # The pieces are what the pattern matches, and what lies between them goes.
    pieces = Split(Regex(_PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = Cutters([pieces, ByteLevel(add_prefix_space=False)])
    return tokenizer
