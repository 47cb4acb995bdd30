"""Texts as the tokens that SigLIP's text encoders were trained with, on the host.

SigLIP has a sentencepiece vocabulary of its own and SigLIP 2 that of Gemma; both are read from the
folder's `tokenizer.json`.

References: Zhai, Mustafa, Kolesnikov, Beyer, *Sigmoid loss for language image pre-training*, 2023,
section 4; Tschannen, Gritsenko, Wang et al., *SigLIP 2*, 2025, section 2.1.
"""

from __future__ import annotations

import os
import re
import string
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
    stated_length,
    token_of,
)

FILES = (WHOLE, *SETTINGS)
"""What a folder may have of all that is read here."""

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _canonical(text: str) -> str:
    """In small letters, without ASCII punctuation, single-spaced: what SigLIP was trained on."""
    return re.sub(r"\s+", " ", text.lower().translate(_WITHOUT_PUNCTUATION)).strip()


def _small(text: str) -> str:
    """In small letters, each for itself, as `transformers` has it: no final sigma."""
    return "".join(letter.lower() for letter in text)


# By the class that a folder's settings name: how a text is written, its end, and its padding.
# SigLIP 2's published settings name Gemma's class, which keeps capitals; it was trained on small
# letters (section 2.1), and so are texts read here.
_FAMILIES: dict[str, tuple[Callable[[str], str], str, str]] = {
    "SiglipTokenizer": (_canonical, "</s>", "</s>"),
    **{
        name: (_small, "<eos>", "<pad>")
        for name in ("Siglip2Tokenizer", "GemmaTokenizer", "GemmaTokenizerFast")
    },
}


def load_siglip_tokenizer(
    folder: str | os.PathLike[str], *, length: int = 64
) -> Callable[[Sequence[str]], np.ndarray]:
    """Reads a tokenizer from a folder that `transformers` wrote.

    Args:
        folder: with `tokenizer.json`, and `tokenizer_config.json`, which says the family by its
            `tokenizer_class` and perhaps the ends of texts, what they are padded with and at how
            many tokens they end.
        length: the most tokens, at least 2: `max_position_embeddings` of the text encoder.

    Returns:
        `texts [P] -> ids [P, length]` int32: text, end, padding. A text that is too long loses its
        last tokens, never the end's, with a warning.

    Raises:
        ValueError: if `tokenizers` is not installed, a file cannot be read, the family is another
            one, or the vocabulary lacks a token that every text needs. The message names it.
    """
    check_count("length", length, 2)
    folder = Path(folder)
    settings = read_settings(folder)
    family = settings.get("tokenizer_class")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(
            f"{folder / SETTINGS[0]}: tokenizer_class is {family!r}: it must be "
            f"{', '.join(list(_FAMILIES)[:-1])} or {list(_FAMILIES)[-1]}"
        )
    # The network reads the last token, so it matters where the padding stands.
    for name, known in (("padding_side", "right"), ("do_lower_case", True)):
        if settings.get(name, known) != known:
            raise ValueError(
                f"{folder / SETTINGS[0]}: {name} is {settings[name]!r}: SigLIP was trained with "
                f"{known!r}"
            )
    if not (folder / WHOLE).exists():
        raise ValueError(
            f"cannot read {folder / WHOLE}: no such file, and spiece.model is not read; save the "
            "folder's tokenizer with the library tokenizers"
        )
    write, end, padding = _FAMILIES[family]
    end = token_of(settings, "eos_token", end)
    padding = token_of(settings, "pad_token", padding)
    tokenizer = read_whole(folder)
    last, rest = ids_of(tokenizer, (end, padding), folder)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(write(text), add_special_tokens=False).ids

    length = min(length, stated_length(settings, folder))
    return padded(encode, length=length, first=None, last=last, rest=rest)
