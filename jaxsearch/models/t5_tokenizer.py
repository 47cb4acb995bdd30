"""Texts as the tokens that T5's encoder was trained with, on the host.

The pieces are sentencepiece's, read by the `tokenizers` library from a folder's `tokenizer.json`.

Reference: Raffel, Shazeer, Roberts et al., *Exploring the limits of transfer learning with a
unified text-to-text transformer*, 2020, section 2.2.1, https://arxiv.org/abs/1910.10683.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxsearch.core.checks import check_count
from jaxsearch.models.tokenizer_files import (
    SETTINGS,
    WHOLE,
    ids_of,
    padded,
    read_settings,
    read_whole,
    token_of,
)

FILES = (WHOLE, *SETTINGS)
"""What a folder may have of all that is read here."""


def load_t5_tokenizer(
    folder: str | os.PathLike[str], *, length: int
) -> Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]:
    """Reads a tokenizer from a folder that `transformers` wrote: `tokenizer/` of a pipeline.

    Args:
        folder: with `tokenizer.json`; its settings may say the end of texts and their padding.
        length: of all rows, at least 2, whatever the settings say: T5 has no most tokens.

    Returns:
        `texts [P] -> ids [P, length]` int32, which is text, end, padding, `and seen [P, length]`
        bool, which is no padding. A text that is too long loses its last tokens, never the end's,
        with a warning.

    Raises:
        ValueError: if `tokenizers` is not installed, a file cannot be read, or the vocabulary lacks
            a token that every text needs. The message names it.
    """
    check_count("length", length, 2)
    folder = Path(folder)
    settings = read_settings(folder)
    if not (folder / WHOLE).exists():
        raise ValueError(
            f"cannot read {folder / WHOLE}: no such file, and spiece.model is not read; save the "
            "folder's tokenizer once with the library transformers, whose save_pretrained writes it"
        )
    ends = token_of(settings, "eos_token", "</s>"), token_of(settings, "pad_token", "<pad>")
    tokenizer = read_whole(folder)
    last, rest = ids_of(tokenizer, ends, folder)
    if last == rest:
        raise ValueError(f"{folder}: texts end with what they are padded with, {ends[0]!r}")

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    rows = padded(encode, length=length, first=None, last=last, rest=rest)

    def tokenise(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = rows(texts)
        # What is behind the last token that is no padding; a text may name the padding itself.
        behind = np.cumprod((ids == rest)[:, ::-1], axis=1)[:, ::-1].astype(bool)
        return ids, ~behind

    return tokenise
