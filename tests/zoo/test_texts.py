"""Prompts in free words, whose noise does not hang on their place."""

from __future__ import annotations

import numpy as np

from jaxsearch.zoo.texts import text_ids


def test_ids_of_texts():
    texts = ["a", "b", "1 a", "", " ", "é", "a ", "0 a"] * 3
    ids = text_ids(texts)
    assert len(set(ids.tolist())) == len(texts)
    assert ids.min() >= 0
    # They must never change: runs of another day would no longer replay.
    np.testing.assert_array_equal(text_ids(["a", "a"]), [1947945454, 1977164761])
