"""CLIP's text encoder against `transformers` at random weights, through the files it writes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.clip_text import (
    ClipText,
    ClipTextConfig,
    clip_text_config,
    clip_text_network,
    load_clip_text,
)
from jaxsearch.models.loading import abstract_module, parameters
from tests.models.published import relative, written

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TINY = {
    "vocab_size": 11,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 7,
    "layer_norm_eps": 0.01,  # large, so that it shows where it stands
    "bos_token_id": 9,
    "eos_token_id": 10,
}
IDS = np.array([[9, 0, 5, 10, 10, 10, 10], [9, 1, 2, 3, 4, 5, 10], [9, 10, 0, 0, 0, 0, 0]])


def theirs(folder, **changes):
    from transformers import CLIPTextConfig, CLIPTextModel

    return written(CLIPTextModel(CLIPTextConfig(**{**TINY, **changes})), folder)


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def pair(request, tmp_path_factory):
    """The reference, and the folder that it wrote."""
    return theirs(tmp_path_factory.mktemp("text"), hidden_act=request.param)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("text"))


def ask(reference, ids):
    return reference(torch.as_tensor(ids)).last_hidden_state.numpy()


@pytest.mark.parametrize("length", [7, 4])
def test_computes_as_transformers_does(pair, length, record_property):
    """Padding is seen, as pipelines have it, and shorter texts go too.

    Kills: no causal mask; one gelu for another; the number of heads for their size; the last
    normalisation left out; one epsilon for another; layers in another order.
    """
    reference, folder = pair
    config, params = load_clip_text(folder)
    ids = IDS[:, :length]
    found = clip_text_network(config)(params, jnp.asarray(ids, jnp.int32))
    wanted = ask(reference, ids)
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-6
    assert found.dtype == jnp.float32


def test_a_token_sees_those_before_it(usual):
    config, params = load_clip_text(usual[1])
    network = clip_text_network(config)
    changed = np.array(IDS)
    changed[:, 4] = 8
    one, two = (network(params, jnp.asarray(ids, jnp.int32)) for ids in (IDS, changed))
    np.testing.assert_allclose(one[:, :4], two[:, :4], atol=1e-6)
    assert np.all(np.max(np.abs(one - two), axis=2)[:, 4:] > 1e-3)


def test_bfloat16_is_near(usual):
    config, params = load_clip_text(usual[1])
    halves = load_clip_text(usual[1], dtype=jnp.bfloat16)[1]
    ids = jnp.asarray(IDS, jnp.int32)
    exact = clip_text_network(config)(params, ids)
    rough = clip_text_network(config, dtype=jnp.bfloat16)(halves, ids)
    assert halves["encoder"]["layers"]["block"]["mlp"]["fc1"]["kernel"].dtype == jnp.bfloat16
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05
    with pytest.raises(ValueError, match="dtype is float16"):
        clip_text_network(config, dtype=jnp.float16)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, 123_060_480),  # Stable Diffusion 1: CLIP ViT-L/14
        (
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 23,
                "num_attention_heads": 16,
                "hidden_act": "gelu",
            },
            340_387_840,  # 2: OpenCLIP ViT-H/14, all layers but the last
        ),
    ],
)
def test_published_sizes(changes, number):
    config = ClipTextConfig(**changes)
    whole = parameters(abstract_module(lambda rngs: ClipText(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == number


# ----------------------------------------------------------------------------------------- weights


def rewritten(usual, folder, change):
    tensors = change(load_file(usual[1] / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((usual[1] / "config.json").read_text())
    return folder


def former(tensors):
    """As `transformers` 4 wrote them, with the numbers of the places."""
    named = {f"text_model.{key.removeprefix('text_model.')}": t for key, t in tensors.items()}
    return {**named, "text_model.embeddings.position_ids": np.arange(7)[None]}


def test_former_and_present_names(usual, tmp_path):
    _, wanted = load_clip_text(usual[1])
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    _, found = load_clip_text(rewritten(usual, tmp_path / "one", former))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)

    def bare(tensors):
        return {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}

    _, found = load_clip_text(rewritten(usual, tmp_path / "two", bare))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


BIAS = "text_model.encoder.layers.2.mlp.fc2.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != BIAS},
            "missing: encoder.layers.2.mlp.fc2.bias",
        ),
        (
            lambda t: {**t, "text_projection.weight": t[BIAS]},
            "unknown: text_projection.weight",
        ),
        (
            lambda t: {**t, BIAS: t[BIAS][:5]},
            r"mis-shaped: encoder.layers.2.mlp.fc2.bias \(5,\) instead of \(24,\)",
        ),
        (
            lambda t: {**t, BIAS.removeprefix("text_model."): t[BIAS]},
            "two tensors stand for encoder.layers.2.mlp.fc2.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_clip_text(rewritten(usual, tmp_path, lambda tensors: change(former(tensors))))


def entries(usual) -> dict:
    return json.loads((usual[1] / "config.json").read_text())


MISTAKES = {
    "class": (
        {"architectures": ["CLIPTextModelWithProjection"]},
        "architectures is .'CLIPTextModelWithProjection'.: only .'CLIPTextModel'. is supported",
    ),
    "kind": ({"model_type": "t5"}, "model_type is 't5'"),
    "activation": ({"hidden_act": "relu"}, "hidden_act is 'relu': only gelu or quick_gelu"),
    "dropout": ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    "masked": ({"use_attention_mask": True}, "use_attention_mask is True: only False"),
    "heads": ({"num_attention_heads": 5}, "hidden_size is 24: it must be a multiple of .*, 5"),
    "layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "epsilon": ({"layer_norm_eps": None}, "layer_norm_eps is None: it must be a number"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        clip_text_config({**entries(usual), **change})
    assert "\n" not in str(caught.value)


def test_configs(usual):
    # What Stable Diffusion 1's file says.
    early = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": 49408,
    }
    assert clip_text_config(early) == ClipTextConfig()
    assert clip_text_config(entries(usual)).num_hidden_layers == 3
    with pytest.raises(ValueError, match="no entry 'hidden_act'"):
        clip_text_config({k: v for k, v in early.items() if k != "hidden_act"})
