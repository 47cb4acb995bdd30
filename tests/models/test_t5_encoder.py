"""T5's encoder and tokenizer against `transformers` at random weights, through its files."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.models.t5_encoder import (
    T5Encoder,
    T5EncoderConfig,
    distance_classes,
    load_t5_encoder,
    t5_encoder_config,
    t5_encoder_network,
)
from jaxsearch.models.t5_tokenizer import load_t5_tokenizer
from tests.models.pipelines import write_t5_tokenizer
from tests.models.published import relative, written

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 13,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "layer_norm_epsilon": 0.01,  # large, so that it shows where it stands
    "feed_forward_proj": "gated-gelu",
}
IDS = np.random.default_rng(0).integers(2, 13, (3, 14))
SEEN = np.arange(14)[None] < np.array([[14], [6], [1]])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The reference, and the folder that it wrote."""
    reference = transformers.T5EncoderModel(transformers.T5Config(**TINY))
    return written(reference, tmp_path_factory.mktemp("text"))


def test_computes_as_transformers_does(pair, record_property):
    """Kills: scaled products; later places for former ones; a mean taken off; padding that is seen;
    gates and values exchanged; one gelu for another; one epsilon for another.
    """
    reference, folder = pair
    config, params = load_t5_encoder(folder)
    found = t5_encoder_network(config)(params, jnp.asarray(IDS, jnp.int32), jnp.asarray(SEEN))
    ids, mask = torch.as_tensor(IDS), torch.as_tensor(SEEN.astype(np.int64))
    wanted = reference(ids, attention_mask=mask).last_hidden_state.numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-6
    assert found.dtype == jnp.float32
    halves = load_t5_encoder(folder, dtype=jnp.bfloat16)[1]
    rough = t5_encoder_network(config, dtype=jnp.bfloat16)(
        halves, jnp.asarray(IDS, jnp.int32), jnp.asarray(SEEN)
    )
    assert 1e-4 < relative(rough, wanted) < 0.1
    assert halves["shared"]["embedding"].dtype == jnp.bfloat16


@pytest.mark.parametrize(("num", "farthest"), [(32, 128), (8, 9)])
def test_distances_are_those_of_transformers(num, farthest):
    """At 300 tokens, beyond the farthest; the edges of classes hang on the last bit."""
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(300)
    wanted = T5Attention._relative_position_bucket(
        places[None, :] - places[:, None], num_buckets=num, max_distance=farthest
    )
    np.testing.assert_array_equal(distance_classes(300, num, farthest), wanted.numpy())


def test_the_published_size():
    module = abstract_module(lambda rngs: T5Encoder(T5EncoderConfig(), rngs=rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(parameters(module))) == 4_762_310_656


# ----------------------------------------------------------------------------------------- weights


def rewritten(pair, folder, change):
    tensors = load_file(pair[1] / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((pair[1] / "config.json").read_text())
    return folder


def former(tensors):
    """The table of tokens under its other name alone."""
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")


def both(tensors):
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].copy()


@pytest.mark.parametrize("change", [former, both])
def test_either_name_of_the_table(pair, tmp_path, change):
    _, wanted = load_t5_encoder(pair[1])
    _, found = load_t5_encoder(rewritten(pair, tmp_path, change))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


OUT = "encoder.block.2.layer.1.DenseReluDense.wo.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(OUT), f"missing: {OUT}"),
        (lambda t: t.update({"lm_head.weight": t[OUT]}), "unknown: lm_head.weight"),
        (
            lambda t: t.update({OUT: t[OUT][:5]}),
            r"wo.weight \(5, 20\) instead of \(12, 20\)",
        ),
        (
            lambda t: t.update({"encoder.embed_tokens.weight": t["shared.weight"] + 1}),
            "shared.weight and encoder.embed_tokens.weight differ",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(pair, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_t5_encoder(rewritten(pair, tmp_path, change))


MISTAKES = {
    "class": ({"architectures": ["T5Model"]}, "architectures is .'T5Model'.: only"),
    "kind": ({"model_type": "umt5"}, "model_type is 'umt5'"),
    "plain": ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu': only 'gated-gelu'"),
    "heads": ({"num_heads": 0}, "num_heads is 0"),
    "odd": ({"relative_attention_num_buckets": 7}, "num_buckets is 7: it must be even"),
    "near": ({"relative_attention_max_distance": 2}, "max_distance is 2"),
    "epsilon": ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon is 0.0"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(pair, mistake):
    change, message = MISTAKES[mistake]
    entries = json.loads((pair[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        t5_encoder_config({**entries, **change})


def test_the_published_config():
    xxl = {
        "architectures": ["T5EncoderModel"],
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_decoder_layers": 24,
        "num_heads": 64,
        "num_layers": 24,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.21.1",
        "use_cache": True,
        "vocab_size": 32128,
    }
    assert t5_encoder_config(xxl) == T5EncoderConfig()


# --------------------------------------------------------------------------------------- tokenizer

TEXTS = ["", "The cat's hat, 12!", "café  the cat", "the cat " * 20, "a </s> cat <pad>", "x <pad>"]


@pytest.mark.filterwarnings("ignore:the prompt")
def test_tokens_are_those_of_transformers(tmp_path):
    """Kills: no end; padding that is seen; the end lost where a text is too long."""
    pytest.importorskip("tokenizers")
    reference = write_t5_tokenizer(tmp_path)
    ids, seen = load_t5_tokenizer(tmp_path, length=16)(TEXTS)
    wanted = reference(TEXTS, padding="max_length", max_length=16, truncation=True)
    np.testing.assert_array_equal(ids, wanted.input_ids)
    np.testing.assert_array_equal(seen, np.asarray(wanted.attention_mask).astype(bool))
    assert (ids.dtype, seen.dtype) == (np.int32, bool)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no such file, and spiece\.model is not read; save"):
        load_t5_tokenizer(tmp_path, length=16)
