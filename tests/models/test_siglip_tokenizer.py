"""SigLIP's tokenizers against `transformers`, on vocabularies that are made here."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxsearch.models.siglip_tokenizer import load_siglip_tokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:the prompt")

LETTERS = [chr(code) for code in range(0x61, 0x7B)]
TEXTS = [
    "",
    " ",
    "A photo of the Cat.",
    "the   cat's hat, isn't it?! (the-cat) \t x_y\n",
    "Σ ΟΔΟΣ İstanbul ß",
    "café 猫 🐈",
    "the cat " * 60,
]


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """As SigLIP 2's: bytes for what is unknown, no start, an end, padding on the right."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    merges = [("a", "t"), ("c", "at"), ("▁", "cat"), ("t", "h"), ("th", "e"), ("▁", "▁")]
    pieces = [*LETTERS, "▁", "C", ".", "?", *(one + two for one, two in merges)]
    tokens = [*names, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    reference = transformers.Siglip2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        padding_side="right",
        add_eos_token=True,
        add_bos_token=False,
    )
    folder = tmp_path_factory.mktemp("gemma")
    reference.save_pretrained(folder)
    return reference, folder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """As SigLIP's: the end is the padding too."""
    pieces = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *((letter, -5.0) for letter in LETTERS)]
    pieces += [("▁the", -1.0), ("▁cat", -1.5), ("at", -2.0), ("s", -4.0), ("▁photo", -1.2)]
    unique = list(dict(pieces).items())
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(unique, unk_id=1))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    folder = tmp_path_factory.mktemp("sentences")
    model.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "SiglipTokenizer",
        "do_lower_case": True,
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 64,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="</s>", pad_token="</s>"
    )
    return reference, folder


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_siglip_2_is_as_in_transformers(gemma, text):
    """Kills: capitals; punctuation left out; a start; padding with the end; a final sigma; no end
    where a text is too long.
    """
    reference, folder = gemma
    wanted = reference(text, padding="max_length", max_length=64, truncation=True).input_ids
    found = load_siglip_tokenizer(folder)([text])
    np.testing.assert_array_equal(found, [wanted])
    assert (found.dtype, found.shape) == (np.int32, (1, 64))


def test_siglip_2_as_it_was_published(gemma, tmp_path):
    """The settings name Gemma's class and the file keeps capitals: texts are small nevertheless."""
    _, folder = gemma
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["normalizer"] = whole["normalizer"]["normalizers"][1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    settings = {"tokenizer_class": "GemmaTokenizer", "padding_side": "right"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    one, two = (load_siglip_tokenizer(path)(TEXTS) for path in (folder, tmp_path))
    np.testing.assert_array_equal(one, two)


WRITTEN = {
    "The  Cat's photo!": "the cats photo",
    "the-cat, (photo)": "thecat photo",
    " the\tcat \n": "the cat",
    "the cat — “photo”": "the cat — “photo”",  # punctuation of ASCII goes, other stays
    "... !": "",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_siglip_is_as_in_transformers_after_it_is_written_plainly(sentences, text):
    """What its class does first is written out. Kills: capitals, punctuation or spaces kept."""
    reference, folder = sentences
    ids = reference(WRITTEN[text], add_special_tokens=False).input_ids
    end = reference.eos_token_id
    wanted = [*ids, *[end] * (64 - len(ids))]
    np.testing.assert_array_equal(load_siglip_tokenizer(folder)([text]), [wanted])


def test_long_texts_keep_their_end(sentences):
    reference, folder = sentences
    found = load_siglip_tokenizer(folder, length=4)(["the cat the cat the cat"])
    the, cat = (reference.convert_tokens_to_ids(token) for token in ("▁the", "▁cat"))
    np.testing.assert_array_equal(found, [[the, cat, the, reference.eos_token_id]])
    with pytest.warns(UserWarning, match="has 6 tokens: the last 3 are not read"):
        load_siglip_tokenizer(folder, length=4)(["the cat the cat the cat"])


def test_the_settings_may_say_that_texts_are_shorter(sentences, tmp_path):
    """As those of SoViT-400m at 224 pixels do."""
    _, folder = sentences
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**settings, "model_max_length": 16})
    )
    assert load_siglip_tokenizer(tmp_path)(["cat"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokenizer_class": "CLIPTokenizer"},
            "tokenizer_class is 'CLIPTokenizer': it must be Sig",
        ),
        ({"tokenizer_class": None}, "tokenizer_class is None"),
        ({"padding_side": "left"}, "padding_side is 'left': SigLIP was trained with 'right'"),
        ({"do_lower_case": False}, "do_lower_case is False: SigLIP was trained with True"),
        ({"eos_token": "<end>"}, "has no token '<end>'"),
        ({"pad_token": 3}, "pad_token is 3"),
        (None, "cannot read .*tokenizer.json: no such file, and spiece.model is not read"),
    ],
)
def test_files_that_cannot_be_read_are_named(sentences, tmp_path, change, message):
    _, folder = sentences
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if change is not None:
        (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, **(change or {})}))
    with pytest.raises(ValueError, match=message) as caught:
        load_siglip_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
