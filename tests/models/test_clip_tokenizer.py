"""CLIP's tokenizer against `transformers`, on a vocabulary that is made here."""

from __future__ import annotations

import builtins
import json
import warnings

import numpy as np
import pytest

from jaxsearch.models.clip_tokenizer import load_clip_tokenizer
from tests.models.pipelines import END, START, vocabulary, write_tokenizer

pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")


@pytest.fixture(scope="module", params=[END, "!"], ids=["one", "two"])
def folder(request, tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), padding=request.param)


TEXTS = [
    "",
    " ",
    "a photo of the cat",
    "A  Photo\tof \n THE   CAT  ",
    "the cat's hat isn't ours, they'll say we've 'd it 'm",
    "THE CAT'S",
    "12 cats, 1234 and 3.14",
    "café, cafe\u0301, naïve — “quoted” …",
    "猫と犬 кошка قطة",
    "a cat 🐈‍⬛ and 👩‍👩‍👧 !! ?! ...",
    "<b>the cat</b> &amp; &lt;and&gt;",
    "hello! the! ! !!",
    "a<|endoftext|>b <|startoftext|> <|ENDOFTEXT|> <| endoftext |>",
    "x_y-z/@#$%^&*()[]{}\\|`~",
    "½ ² ٣ Ⅷ İstanbul ß ǅ",
    "\u00a0no\u200bbreak\u3000wide",
    "the cat " * 100,
    "catcatcat" * 30,
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tokens_are_those_of_transformers(folder, text):
    """Kills: small letters or composition left out; digits in runs; contractions cut elsewhere; the
    end of a word not marked; the padding of one family for the other's; a long text without end.
    """
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    wanted = reference(text, padding="max_length", max_length=77, truncation=True).input_ids
    found = load_clip_tokenizer(folder)([text])
    np.testing.assert_array_equal(found, [wanted])
    assert (found.dtype, found.shape) == (np.int32, (1, 77))


@pytest.mark.filterwarnings("default")
def test_who_writes_too_much_is_told(folder):
    tokenise = load_clip_tokenizer(folder, length=7)
    with pytest.warns(
        UserWarning, match="prompt 'and and and and and and'... has 6 tokens: the la"
    ):
        tokenise(["and and and and and and"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenise(["and and and and and"])


def test_words_by_hand(folder):
    """The cat, merged; and the padding, which `transformers` alone would not show to be right."""
    known, padding = vocabulary(), json.loads((folder / "special_tokens_map.json").read_text())
    ids = load_clip_tokenizer(folder, length=7)(["The  cat", "and and and and and and"])
    rest = known[padding["pad_token"]]
    the, cat, and_ = (known[f"{word}</w>"] for word in ("the", "cat", "and"))
    np.testing.assert_array_equal(ids[0], [known[START], the, cat, known[END], rest, rest, rest])
    np.testing.assert_array_equal(ids[1], [known[START], *[and_] * 5, known[END]])


def test_one_file_for_both(folder, tmp_path):
    """What `transformers` 5 writes: `tokenizer.json`, here with another length and padding."""
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    reference("the cat", padding="max_length", max_length=9, truncation=True)
    reference.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    one, two = (load_clip_tokenizer(path)(TEXTS) for path in (folder, tmp_path))
    np.testing.assert_array_equal(one, two)


def test_the_settings_may_say_that_texts_are_shorter(folder, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text((folder / name).read_text())
    assert load_clip_tokenizer(tmp_path)(["cat"]).shape == (1, 77)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    assert load_clip_tokenizer(tmp_path)(["cat"]).shape == (1, 5)
    assert load_clip_tokenizer(tmp_path, length=4)(["cat"]).shape == (1, 4)
    # Who lists the added tokens has said all there.
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    assert load_clip_tokenizer(tmp_path)(["cat"])[0, -1] == vocabulary()["!"]
    settings = '{"added_tokens_decoder": {}, "pad_token": null}'
    (tmp_path / "tokenizer_config.json").write_text(settings)
    assert load_clip_tokenizer(tmp_path)(["cat"])[0, -1] == vocabulary()[END]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", None, "cannot read .*vocab.json: no such file, and no tokenizer.json"),
        ("merges.txt", None, "cannot read .*merges.txt: no such file, and no tokenizer.json"),
        ("vocab.json", "{", "cannot read a tokenizer from .*vocab.json"),
        ("merges.txt", "#version: 0.2\nq q</w>\n", "cannot read a tokenizer from .*vocab.json"),
        ("tokenizer.json", "{}", "cannot read a tokenizer from .*tokenizer.json"),
        ("vocab.json", '{"a": 0}', "cannot read a tokenizer from"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: it holds no entries"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "model_max_length is 'x'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {}, "pad_token": 3}', "pad_token is 3"),
        ("special_tokens_map.json", '{"pad_token": "<pad>"}', "has no token '<pad>'"),
    ],
)
def test_files_that_cannot_be_read_are_named(folder, tmp_path, name, content, message):
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_text(path.read_text())
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_clip_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_the_library(folder, monkeypatch):
    def absent(name, *args, real=builtins.__import__, **kwargs):
        if name.startswith("tokenizers"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r"pip install 'jaxsearch\[hf\]'"):
        load_clip_tokenizer(folder)
