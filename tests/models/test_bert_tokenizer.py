"""BERT's tokens against `transformers`, from both forms of its files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxsearch.models.bert_tokenizer import OF_BLIP, load_bert_tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "cat", "##s", "un", "##aff", "##able", "cafe", ",", ".", "!", "'", "12", "##3",
         "<", ">", "&", "中", "文", "of", "red", "##ed", "dec", "enc", "]", "["]  # fmt: skip
TEXTS = [
    "The cats, unaffable!",
    "  a\tCafé \n of 123 ",
    "中文 a cat",
    "[ENC] the [cat] [DEC][SEP] a",
    "",
    "x-ray's \u201cred\u201d 🐈 1234 unknownword",
    "the\u0000 \ufffdcat\u00ad of",
]


def vocabulary() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [f"##{letter}" for letter in letters]
    return list(dict.fromkeys([*SPECIAL, *WORDS, *letters, *pieces]))


SIZE = len(vocabulary()) + len(OF_BLIP)


def write_vocabulary(folder):
    """A folder as `bert-base-uncased` is, without its `tokenizer.json`."""
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    settings = {"do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def theirs(folder):
    """The tokenizer as ImageReward makes it (THUDM/ImageReward, `models/BLIP/blip.py`)."""
    found = transformers.BertTokenizer.from_pretrained(folder)
    found.add_special_tokens({"bos_token": "[DEC]"})
    found.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return found


def wanted(folder, texts, length):
    found = theirs(folder)(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return np.where(found.attention_mask > 0, found.input_ids, -1)


def ours(folder, length=35):
    return load_bert_tokenizer(folder, length=length, vocab_size=SIZE, added=OF_BLIP)


@pytest.fixture(params=["vocab.txt", "tokenizer.json"])
def folder(request, tmp_path):
    write_vocabulary(tmp_path)
    if request.param == "tokenizer.json":
        transformers.BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        assert (tmp_path / "tokenizer.json").exists()
        (tmp_path / "vocab.txt").unlink(missing_ok=True)
    return tmp_path


def test_tokens_are_those_of_transformers(folder):
    """Kills: capitals or accents kept; no end; padding that counts; words of pieces from the left
    to the right that are not the longest; what BLIP adds, in another order.
    """
    found = ours(folder)(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), 35), np.int32)
    np.testing.assert_array_equal(found, wanted(folder, TEXTS, 35))
    assert found[0, 0] == 2
    assert found[4].tolist() == [2, 3, *[-1] * 33]
    assert found[3, 1] == SIZE - 1  # [ENC]


def test_long_texts_lose_their_last_tokens_and_keep_their_end(folder):
    """At 35, one fewer and one more. Kills: the end counted among what is cut, or not at all."""
    texts = [" ".join(["cat"] * num) + " the" for num in (31, 32, 33, 60)]
    with pytest.warns(UserWarning, match="are not read") as caught:
        found = ours(folder)(texts)
    lost = [str(one.message).partition(" has ")[2] for one in caught]
    assert lost == [f"{34 + more} tokens: the last {1 + more} are not read" for more in (0, 27)]
    np.testing.assert_array_equal(found, wanted(folder, texts, 35))
    assert np.all(found[1:, -1] == 3)


@pytest.mark.filterwarnings("ignore:the prompt")
def test_another_length(folder):
    np.testing.assert_array_equal(ours(folder, 5)(TEXTS), wanted(folder, TEXTS, 5))


def test_mistakes_are_one_line(tmp_path):
    write_vocabulary(tmp_path)
    with pytest.raises(ValueError, match=r"has 83 tokens with \[DEC\] and \[ENC\], and the netw"):
        load_bert_tokenizer(tmp_path, length=35, vocab_size=30524, added=OF_BLIP)
    with pytest.raises(ValueError, match="length is 1"):
        ours(tmp_path, 1)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(ValueError, match=r"do_lower_case must be true: give its tokenizer\.json"):
        ours(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_text("[CLS]\n[SEP]\n[UNK]\n[PAD]\na\n")
    with pytest.raises(ValueError, match=r"has no token '\[MASK\]'"):
        ours(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"vocab\.txt: no such file, and no tokenizer\.json eith"):
        ours(tmp_path)
