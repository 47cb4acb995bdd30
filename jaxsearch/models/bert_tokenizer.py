"""Texts as the tokens that BERT and BLIP were trained with, on the host.

Words are cut into the longest pieces that the vocabulary has, by the `tokenizers` library.

Reference: Devlin, Chang, Lee, Toutanova, *BERT*, 2019, section 3,
https://arxiv.org/abs/1810.04805; Wu, Schuster, Chen et al., *Google's neural machine translation
system*, 2016, section 4.1, https://arxiv.org/abs/1609.08144.
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
)

VOCABULARY = "vocab.txt"
FILES = (WHOLE, VOCABULARY, *SETTINGS)
"""What a folder may have of all that is read here."""

NOTHING = -1
"""Stands after the last token of a text."""

_FIRST, _LAST = "[CLS]", "[SEP]"
_SPECIAL = (_FIRST, _LAST, "[PAD]", "[UNK]", "[MASK]")
OF_BLIP = ("[DEC]", "[ENC]")
"""What BLIP adds to BERT's vocabulary, in this order."""


def load_bert_tokenizer(
    folder: str | os.PathLike[str], *, length: int, vocab_size: int, added: Sequence[str] = ()
) -> Callable[[Sequence[str]], np.ndarray]:
    """Reads a tokenizer from a folder that `transformers` wrote, such as `bert-base-uncased`.

    Args:
        folder: with `tokenizer.json` or `vocab.txt`; of the latter words are in small letters and
            without accents.
        length: of all texts, at least 2.
        vocab_size: how many tokens the network knows, those that are added too.
        added: tokens that are added at the end of the vocabulary if it lacks them.

    Returns:
        `texts [P] -> ids [P, length]` int32: `[CLS]`, text, `[SEP]`, then `NOTHING`. A text that is
        too long loses its last tokens, never the end's, with a warning.

    Raises:
        ValueError: if `tokenizers` is not installed, a file cannot be read, the vocabulary is of
            another size or lacks a token that every text needs. The message names it.
    """
    check_count("length", length, 2)
    folder = Path(folder)
    tokenizer = read_whole(folder) if (folder / WHOLE).exists() else _word_pieces(folder)
    first, last, *_ = ids_of(tokenizer, _SPECIAL, folder)
    # They are tokens wherever in a text they are written.
    tokenizer.add_special_tokens([*_SPECIAL, *added])
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size != vocab_size:
        raise ValueError(
            f"the vocabulary in {folder} has {size} tokens with {' and '.join(added) or 'its own'}"
            f", and the network {vocab_size}: give the one that it was trained with"
        )

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return padded(encode, length=length, first=first, last=last, rest=NOTHING)


def _word_pieces(folder: Path) -> Any:
    """The tokenizer of a `vocab.txt`: small letters, no accents, punctuation apart."""
    library()
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    if read_settings(folder).get("do_lower_case", True) is not True:
        raise ValueError(f"{folder / SETTINGS[0]}: do_lower_case must be true: give its {WHOLE}")
    path = folder / VOCABULARY
    if not path.exists():
        raise ValueError(f"cannot read {path}: no such file, and no {WHOLE} either")
    try:
        tokenizer = Tokenizer(WordPiece.from_file(str(path), unk_token="[UNK]"))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"cannot read a tokenizer from {path}: {error}") from error
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer
