"""CLIP as a whole against `transformers` at random weights, through the files it writes."""

from __future__ import annotations

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.clip import (
    Clip,
    ClipConfig,
    clip_config,
    clip_image_network,
    clip_text_embedding_network,
    load_clip,
)
from jaxsearch.models.clip_text import ClipTextConfig
from jaxsearch.models.clip_vision import ClipVisionConfig
from jaxsearch.models.loading import abstract_module, parameters
from tests.models.published import relative, to_torch, written

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = {
    "vocab_size": 11,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 7,
    "layer_norm_eps": 0.01,  # large, so that it shows where it stands
    "bos_token_id": 9,
    "eos_token_id": 8,
}
VISION = {
    "image_size": 17,  # three pixels are left over
    "patch_size": 7,
    "hidden_size": 36,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "layer_norm_eps": 0.02,
}
WIDE = {"hidden_size": 160, "num_attention_heads": 2}  # heads of 80, as ViT-H/14 has
# Ends before, at and after the largest token, twice, and in the last place.
IDS = np.array([[9, 0, 8, 10, 8, 10, 10], [9, 1, 10, 3, 4, 8, 0], [9, 8, 0, 0, 0, 0, 0]])


def theirs(folder, text=None, vision=None, **settings):
    config = transformers.CLIPConfig(
        text_config={**TEXT, **(text or {})},
        vision_config={**VISION, **(vision or {})},
        **{"projection_dim": 13, **settings},
    )
    return written(transformers.CLIPModel(config), folder)


KINDS = {
    "openai": ({"hidden_act": "quick_gelu"}, {"hidden_act": "quick_gelu"}),
    "laion": ({"hidden_act": "gelu"}, {"hidden_act": "gelu", **WIDE}),
    # Pooled at the largest token, as before the end's number was right.
    "early": ({"eos_token_id": 2}, {"image_size": 14}),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """The reference, and the folder that it wrote."""
    text, vision = KINDS[request.param]
    return theirs(tmp_path_factory.mktemp("clip"), text, vision)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("clip"))


def pictures(side: int, num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, side, side, 3)).astype(np.float32)


def tokens(ids):
    return jnp.asarray(ids, jnp.int32)


def test_images_are_embedded_as_transformers_does(pair, record_property):
    """Kills: one gelu for the other; the first normalisation left out, or one after the encoder of
    all tokens' mean; the class token last; rows and columns exchanged; a causal mask.
    """
    reference, folder = pair
    clip = load_clip(folder)
    images = pictures(clip.config.vision.image_size)
    found = jax.jit(clip_image_network(clip.config))(clip.images, jnp.asarray(images))
    wanted = reference.get_image_features(to_torch(images)).pooler_output.numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32


def test_texts_are_embedded_as_transformers_does(pair, record_property):
    """Kills: the last end for the first, or the largest token for the end and the other way round;
    pooling before the last normalisation; no mask.
    """
    reference, folder = pair
    clip = load_clip(folder)
    found = jax.jit(clip_text_embedding_network(clip.config))(clip.texts, tokens(IDS))
    wanted = reference.get_text_features(torch.as_tensor(IDS)).pooler_output.numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32


def test_logits_are_those_of_transformers(usual):
    """The scale is an exponential of what is stored; kills: it as it is."""
    reference, folder = usual
    clip = load_clip(folder)
    images = pictures(17)
    one = jax.jit(clip_image_network(clip.config))(clip.images, jnp.asarray(images))
    two = jax.jit(clip_text_embedding_network(clip.config))(clip.texts, tokens(IDS))
    one, two = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (one, two))
    wanted = reference(input_ids=torch.as_tensor(IDS), pixel_values=to_torch(images))
    found = jnp.exp(clip.logit_scale) * one @ two.T
    assert relative(found, wanted.logits_per_image.numpy()) < 2e-5


def test_bfloat16_is_near(usual):
    clip = load_clip(usual[1])
    halves = load_clip(usual[1], dtype=jnp.bfloat16)
    images = jnp.asarray(pictures(17))
    exact = jax.jit(clip_image_network(clip.config))(clip.images, images)
    rough = jax.jit(clip_image_network(clip.config, dtype=jnp.bfloat16))(halves.images, images)
    layer = halves.images["vision_model"]["encoder"]["layers"]["block"]
    assert layer["mlp"]["fc1"]["kernel"].dtype == jnp.bfloat16
    assert layer["layer_norm1"]["scale"].dtype == jnp.float32
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05
    network = clip_text_embedding_network(clip.config, dtype=jnp.bfloat16)
    texts = jax.jit(network)(halves.texts, tokens(IDS))
    assert texts.dtype == jnp.float32
    with pytest.raises(ValueError, match="dtype is float16"):
        clip_image_network(clip.config, dtype=jnp.float16)


def test_a_gradient_goes_through_with_and_without_what_is_kept(usual):
    clip = load_clip(usual[1])
    images = jnp.asarray(pictures(17, 1))

    def slope(network):
        return jax.jit(jax.grad(lambda images: jnp.sum(network(clip.images, images))))(images)

    kept, again = (slope(clip_image_network(clip.config, remat=remat)) for remat in (False, True))
    assert float(jnp.max(jnp.abs(kept))) > 1e-3
    np.testing.assert_allclose(kept, again, rtol=1e-4, atol=1e-6)
    # The pixels that are left over are not seen.
    assert not np.any(kept[:, 14:])
    assert not np.any(kept[:, :, 14:])


def test_other_sizes_of_images_are_refused(usual):
    clip = load_clip(usual[1])
    with pytest.raises(ValueError, match=r"\(1, 16, 17, 3\): the network needs \[n, 17, 17, 3\]"):
        clip_image_network(clip.config)(clip.images, jnp.zeros((1, 16, 17, 3)))


OPENAI_LARGE = ClipConfig(
    text=ClipTextConfig(),
    vision=ClipVisionConfig(
        patch_size=14,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
    ),
    projection_dim=768,
    end=49407,
)


@pytest.mark.parametrize(
    ("entries", "number"),
    [
        ({}, 151_277_313),  # openai/clip-vit-base-patch32: what transformers takes for granted
        (
            {
                "projection_dim": 768,
                "text_config": {
                    "hidden_size": 768,
                    "intermediate_size": 3072,
                    "num_attention_heads": 12,
                },
                "vision_config": {
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "patch_size": 14,
                },
            },
            427_616_513,  # openai/clip-vit-large-patch14
        ),
        (
            {
                "projection_dim": 1024,
                "text_config": {
                    "hidden_act": "gelu",
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_attention_heads": 16,
                    "num_hidden_layers": 24,
                },
                "vision_config": {
                    "hidden_act": "gelu",
                    "hidden_size": 1280,
                    "intermediate_size": 5120,
                    "num_attention_heads": 16,
                    "num_hidden_layers": 32,
                    "patch_size": 14,
                },
            },
            986_109_441,  # laion/CLIP-ViT-H-14-laion2B-s32B-b79K
        ),
    ],
)
def test_published_sizes(entries, number):
    config = clip_config({"model_type": "clip", **entries})
    whole = parameters(abstract_module(lambda rngs: Clip(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == number


# ----------------------------------------------------------------------------------------- configs


def test_what_a_config_leaves_out_is_what_transformers_has():
    """Kills: any default of ours that differs."""
    whole = transformers.CLIPConfig()
    found = clip_config({})
    for ours, config in ((found.text, whole.text_config), (found.vision, whole.vision_config)):
        for name, value in vars(ours).items():
            assert getattr(config, name) == value, name
    assert (found.projection_dim, found.end) == (whole.projection_dim, 49407)
    assert whole.text_config.eos_token_id == 49407


def early(**changes):
    """What OpenAI's files say, as far as it matters; the rest is in `OF_ANY_MODEL`."""
    noise = {
        "add_cross_attention": False,
        "architectures": None,
        "attention_dropout": 0.0,
        "bad_words_ids": None,
        "chunk_size_feed_forward": 0,
        "cross_attention_hidden_size": None,
        "dropout": 0.0,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "is_decoder": False,
        "is_encoder_decoder": False,
        "max_length": 20,
        "pruned_heads": {},
        "return_dict": True,
        "temperature": 1.0,
        "tie_word_embeddings": True,
        "top_k": 50,
        "torch_dtype": None,
        "transformers_version": "4.16.0.dev0",
        "use_bfloat16": False,
    }
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    }
    return {
        "_name_or_path": "clip-vit-large-patch14/",
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            **noise,
            **text,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "model_type": "clip_text_model",
        },
        "text_config_dict": {**text, "num_hidden_layers": 12, "projection_dim": 768},
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": {
            **noise,
            **vision,
            "eos_token_id": None,
            "model_type": "clip_vision_model",
        },
        "vision_config_dict": {**vision, "projection_dim": 768},
        **changes,
    }


def test_early_configs_say_their_encoders_twice():
    """The second time counts, with what `transformers` has where it says nothing: the token of the
    end too. Kills: the first for the second.
    """
    assert clip_config(early()) == OPENAI_LARGE
    once = early(text_config_dict=None, vision_config_dict=None)
    assert clip_config(once).end is None
    other = early(text_config_dict={"hidden_size": 64, "hidden_act": "gelu"})
    theirs, found = transformers.CLIPConfig(**other), clip_config(other)
    assert (found.text.hidden_act, found.text.num_attention_heads) == ("gelu", 8)
    for name, value in vars(found.text).items():
        assert getattr(theirs.text_config, name) == value, name


def test_the_config_that_is_written_is_read(pair):
    reference, folder = pair
    found = clip_config(json.loads((folder / "config.json").read_text()))
    assert found.vision.hidden_size == reference.config.vision_config.hidden_size
    assert found.text.hidden_act == reference.config.text_config.hidden_act


MISTAKES = {
    "class": ({"architectures": ["CLIPTextModel"]}, "architectures is .'CLIPTextModel'.: only"),
    "kind": ({"model_type": "siglip"}, "model_type is 'siglip'"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    "no entries": ({"text_config": 3}, "text_config is 3: it must hold entries"),
    "twice": ({"vision_config_dict": [1]}, r"vision_config_dict is \[1\]: it must hold entries"),
    "part": ({"vision_config": {"window": 2}}, r"entry 'window' \(it is 2\) is not known"),
    "kind of part": ({"text_config": {"model_type": "t5"}}, "model_type is 't5'"),
    "activation": ({"text_config": {"hidden_act": "gelu_pytorch_tanh"}}, "hidden_act is 'gelu_pyt"),
    "heads": ({"vision_config": {"num_attention_heads": 5}}, "768: it must be a multiple of .*, 5"),
    "pruned": ({"vision_config": {"pruned_heads": {"0": [1]}}}, "pruned_heads is .'0': .1.."),
    "decoder": ({"text_config": {"is_decoder": True}}, "is_decoder is True"),
    "sides": ({"vision_config": {"image_size": [224, 224]}}, r"image_size is \[224, 224\]"),
    "patch": (
        {"vision_config": {"image_size": 16}},
        "image_size is 16: it must be at least .*, 32",
    ),
    "epsilon": ({"vision_config": {"layer_norm_eps": "x"}}, "layer_norm_eps is 'x'"),
    "projection": ({"projection_dim": 0}, "projection_dim is 0"),
    "ends": ({"text_config": {"eos_token_id": [1, 2]}}, r"eos_token_id is \[1, 2\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        clip_config(change)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- files


def rewritten(usual, folder, change):
    tensors = change(load_file(usual[1] / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((usual[1] / "config.json").read_text())
    return folder


BIAS = "vision_model.encoder.layers.1.mlp.fc2.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != BIAS}, f"missing: {BIAS}"),
        (
            lambda t: {**t, "vision_model.embeddings.patch_embedding.bias": t[BIAS]},
            "unknown: vision_model.embeddings.patch_embedding.bias",
        ),
        (lambda t: {**t, BIAS: t[BIAS][:5]}, rf"mis-shaped: {BIAS} \(5,\) instead of \(36,\)"),
        (lambda t: {k: v for k, v in t.items() if k != "logit_scale"}, "missing: logit_scale"),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_clip(rewritten(usual, tmp_path, change))


def assert_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one.images, two.images)
    jax.tree.map(np.testing.assert_array_equal, one.texts, two.texts)


def test_the_numbers_of_places_may_be_there(usual, tmp_path):
    places = {
        f"{part}_model.embeddings.position_ids": np.arange(5)[None] for part in ("text", "vision")
    }
    assert_equal(
        load_clip(rewritten(usual, tmp_path, lambda t: {**t, **places})), load_clip(usual[1])
    )


@pytest.mark.parametrize("name", ["pytorch_model.bin", "shards", "older shards"])
def test_other_forms_of_files(usual, tmp_path, name):
    """Kills: one file of several only."""
    reference, folder = usual
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    if name == "shards":
        reference.save_pretrained(tmp_path, max_shard_size="30KB")
        assert not (tmp_path / "model.safetensors").exists()
    elif name == "older shards":
        places = {}
        for number, key in enumerate(reference.state_dict()):
            places[key] = f"pytorch_model-{number % 2}.bin"
        for file in set(places.values()):
            held = {k: t for k, t in reference.state_dict().items() if places[k] == file}
            torch.save(held, tmp_path / file)
        index = {"metadata": {}, "weight_map": places}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save(reference.state_dict(), tmp_path / name)
    assert_equal(load_clip(tmp_path), load_clip(folder))


@pytest.mark.parametrize("places", [None, {}, {"logit_scale": "../model.safetensors"}, {"a": 1}])
def test_an_index_that_says_nothing_is_named(usual, tmp_path, places):
    (tmp_path / "config.json").write_text((usual[1] / "config.json").read_text())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=r"index.json does not say which file holds"):
        load_clip(tmp_path)


def test_the_same_files_are_read_once(usual, tmp_path):
    """Kills: a function or weights that are new each time; old weights where files are new."""
    folder = rewritten(usual, tmp_path, lambda tensors: tensors)
    first = load_clip(folder)
    assert load_clip(str(folder)) is first
    assert load_clip(folder, dtype=jnp.bfloat16) is not first
    network = clip_image_network(first.config)
    assert clip_image_network(load_clip(usual[1]).config, dtype="float32") is network
    path = folder / "model.safetensors"
    rewritten(usual, tmp_path, lambda t: {**t, "logit_scale": np.array(t["logit_scale"] + 1)})
    os.utime(path, ns=(0, 0))
    assert float(load_clip(folder).logit_scale) == pytest.approx(float(first.logit_scale) + 1)
