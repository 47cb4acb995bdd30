"""Prompts in free words, whose noise does not hang on their place."""

from __future__ import annotations

import numpy as np
import pytest

from jaxsearch.zoo.texts import text_ids


def test_ids_of_texts():
    texts = ["a", "b", "1 a", "", " ", "é", "a ", "0 a"] * 3
    ids = text_ids(texts)
    assert len(set(ids.tolist())) == len(texts)
    assert ids.min() >= 0
    # They must never change: runs of another day would no longer replay.
    np.testing.assert_array_equal(text_ids(["a", "a"]), [1947945454, 1977164761])


def test_what_is_no_list_of_texts_is_refused():
    """Kills: a text taken for as many prompts as it has letters; a failure deep in the encoder."""
    with pytest.raises(ValueError, match="prompts are the text 'a cat': give a list of texts"):
        text_ids("a cat")
    with pytest.raises(ValueError, match="no prompts: give at least one"):
        text_ids([])
