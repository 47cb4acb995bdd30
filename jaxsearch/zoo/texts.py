"""Prompts in free words, of models that are told a text."""

from __future__ import annotations

import collections
import zlib
from collections.abc import Sequence

import numpy as np


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
