"""Texts as the tokens that CLIP's text encoder was trained with, on the host.

Byte pairs are merged by the `tokenizers` library, from the files that a pipeline has in its
`tokenizer/`: `vocab.json` and `merges.txt`, or `tokenizer.json`, which holds both.

Reference: Radford, Kim, Hallacy et al., *Learning transferable visual models from natural language
supervision*, 2021, section 2.4, https://arxiv.org/abs/2103.00020.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.models.tokenizer_files import (
    SETTINGS,
    WHOLE,
    ids_of,
    library,
    padded,
    read_settings,
    read_whole,
    stated_length,
    token_of,
)

_START, _END = "<|startoftext|>", "<|endoftext|>"
_ENDS_WORD = "</w>"

FILES = (WHOLE, "vocab.json", "merges.txt", *SETTINGS)
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
    settings = read_settings(folder)
    length = min(length, stated_length(settings, folder))
    start, end = (token_of(settings, key, default) for key, default in _ENDS.items())
    padding = token_of(settings, "pad_token", end)
    unknown = token_of(settings, "unk_token", end)
    tokenizer = _read(folder, unknown)
    ids = ids_of(tokenizer, (start, end, padding), folder)
    # They are tokens wherever in a text they are written, also `!` where that is the padding.
    tokenizer.add_special_tokens(list(dict.fromkeys([start, end, padding, unknown])))
    first, last, rest = ids

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return padded(encode, length=length, first=first, last=last, rest=rest)


_ENDS = {"bos_token": _START, "eos_token": _END}


def _read(folder: Path, unknown: str) -> Any:
    """The tokenizer of a folder, without truncation and padding."""
    library()
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / WHOLE).exists():
        return read_whole(folder)
    for path in (vocabulary, merges):
        if not path.exists():
            raise ValueError(f"cannot read {path}: no such file, and no {WHOLE} either")
    try:
        return _byte_pairs(vocabulary, merges, unknown)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"cannot read a tokenizer from {vocabulary}: {error}") from error


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
