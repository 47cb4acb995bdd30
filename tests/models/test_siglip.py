"""SigLIP against `transformers` at random weights, through the files it writes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.loading import abstract_module, parameters
from jaxsearch.models.siglip import (
    Siglip,
    load_siglip,
    siglip_config,
    siglip_image_network,
    siglip_text_network,
)
from tests.models.published import relative, to_torch, written

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXT = {
    "vocab_size": 11,
    "hidden_size": 24,
    "projection_size": 36,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 7,
    "layer_norm_eps": 0.01,  # large, so that it shows where it stands
    "bos_token_id": 9,
    "eos_token_id": 1,
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
# Heads of 72, as those of SoViT-400m; exact gelu; embeddings as wide as the tokens.
OTHER = (
    {"hidden_size": 144, "num_attention_heads": 2, "hidden_act": "gelu", "projection_size": None},
    {"hidden_size": 144, "num_attention_heads": 2, "hidden_act": "gelu", "image_size": 21},
)
IDS = np.array([[9, 0, 8, 10, 8, 1, 1], [9, 1, 10, 3, 4, 8, 0], [5, 1, 1, 1, 1, 1, 1]])


def theirs(folder, text=None, vision=None):
    config = transformers.SiglipConfig(
        text_config={**TEXT, **(text or {})}, vision_config={**VISION, **(vision or {})}
    )
    reference = transformers.SiglipModel(config)
    _, folder = written(reference, folder)
    return reference, folder


@pytest.fixture(scope="module", params=[({}, {}), OTHER], ids=["tanh", "gelu"])
def pair(request, tmp_path_factory):
    """The reference, and the folder that it wrote."""
    return theirs(tmp_path_factory.mktemp("siglip"), *request.param)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("siglip"))


def pictures(side: int, num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num, side, side, 3)).astype(np.float32)


def tokens(ids):
    return jnp.asarray(ids, jnp.int32)


def test_images_are_embedded_as_transformers_does(pair, record_property):
    """Kills: query, key and value of the head in another order; its residual taken before its
    attention or left out; the last normalisation left out; the tokens' mean; one gelu for another.
    """
    reference, folder = pair
    siglip = load_siglip(folder)
    images = pictures(siglip.config.vision.image_size)
    network = jax.jit(siglip_image_network(siglip.config.vision))
    found = network(siglip.images, jnp.asarray(images))
    wanted = reference.get_image_features(to_torch(images)).pooler_output.numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("length", [7, 4])
def test_texts_are_embedded_as_transformers_does(pair, length, record_property):
    """Kills: a causal mask; the first token or the end's for the last; the head left out."""
    reference, folder = pair
    siglip = load_siglip(folder)
    ids = IDS[:, :length]
    found = jax.jit(siglip_text_network(siglip.config.text))(siglip.texts, tokens(ids))
    wanted = reference.get_text_features(torch.as_tensor(ids)).pooler_output.numpy()
    record_property("relative", relative(found, wanted))
    assert relative(found, wanted) < 2e-5
    assert found.dtype == jnp.float32


def test_logits_are_those_of_transformers(usual):
    """Kills: the scale as it is stored; the bias left out."""
    reference, folder = usual
    siglip = load_siglip(folder)
    images = pictures(17)
    images_of, texts_of = (
        jax.jit(siglip_image_network(siglip.config.vision)),
        jax.jit(siglip_text_network(siglip.config.text)),
    )
    one, two = images_of(siglip.images, jnp.asarray(images)), texts_of(siglip.texts, tokens(IDS))
    one, two = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (one, two))
    wanted = reference(input_ids=torch.as_tensor(IDS), pixel_values=to_torch(images))
    found = jnp.exp(siglip.logit_scale) * one @ two.T + siglip.logit_bias
    assert relative(found, wanted.logits_per_image.numpy()) < 2e-5


def test_bfloat16_and_gradients(usual):
    siglip, halves = load_siglip(usual[1]), load_siglip(usual[1], dtype=jnp.bfloat16)
    images, vision = jnp.asarray(pictures(17, 2)), siglip.config.vision
    exact = jax.jit(siglip_image_network(vision))(siglip.images, images)
    rough = jax.jit(siglip_image_network(vision, dtype=jnp.bfloat16))(halves.images, images)
    assert halves.images["head"]["attention"]["in_proj_weight"].dtype == jnp.bfloat16
    assert rough.dtype == jnp.float32
    assert 1e-4 < relative(rough, exact) < 0.05
    network = siglip_text_network(siglip.config.text, dtype=jnp.bfloat16)
    assert jax.jit(network)(halves.texts, tokens(IDS)).dtype == jnp.float32

    def slope(remat):
        network = siglip_image_network(vision, remat=remat)
        return jax.jit(jax.grad(lambda x: jnp.sum(network(siglip.images, x))))(images)

    kept = slope(False)
    assert float(jnp.max(jnp.abs(kept))) > 1e-3
    np.testing.assert_allclose(kept, slope(True), rtol=1e-4, atol=1e-5)


SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
}


@pytest.mark.parametrize(
    ("entries", "number"),
    [
        ({}, 203_155_970),  # siglip-base-patch16-224: what transformers takes for granted
        ({"text_config": {"vocab_size": 256_000}}, 375_187_970),  # siglip2-base-patch16-224
        (
            {
                "text_config": SO400M,
                "vision_config": {**SO400M, "image_size": 384, "patch_size": 14},
            },
            877_960_498,  # siglip-so400m-patch14-384
        ),
    ],
)
def test_published_sizes(entries, number):
    config = siglip_config(entries)
    whole = parameters(abstract_module(lambda rngs: Siglip(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == number
    with torch.device("meta"):
        reference = transformers.SiglipModel(transformers.SiglipConfig(**entries))
    assert sum(weight.numel() for weight in reference.parameters()) == number


def test_what_a_config_leaves_out_is_what_transformers_has():
    """Kills: any default of ours that differs."""
    whole, found = transformers.SiglipConfig(), siglip_config({})
    for ours, config in ((found.text, whole.text_config), (found.vision, whole.vision_config)):
        for name, value in vars(ours).items():
            if name != "projection_size":
                assert getattr(config, name) == value, name
    assert found.text.features == whole.text_config.projection_size


MISTAKES = {
    "class": ({"architectures": ["Siglip2Model"]}, "architectures is .'Siglip2Model'.: only"),
    "kind": ({"model_type": "siglip2"}, "model_type is 'siglip2'"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
    "no entries": ({"text_config": 3}, "text_config is 3: it must hold entries"),
    "part": ({"vision_config": {"window": 2}}, r"entry 'window' \(it is 2\) is not known"),
    "headless": ({"vision_config": {"vision_use_head": False}}, "vision_use_head is False"),
    "activation": ({"text_config": {"hidden_act": "relu"}}, "hidden_act is 'relu': only gelu or"),
    "heads": ({"vision_config": {"num_attention_heads": 5}}, "768: it must be a multiple of .*, 5"),
    "projection": ({"text_config": {"projection_size": 5}}, "of texts have 5 features .* 768"),
    "projection 2": ({"text_config": {"projection_size": "x"}}, "projection_size is 'x'"),
    "epsilon": ({"vision_config": {"layer_norm_eps": "x"}}, "layer_norm_eps is 'x'"),
    "patch": ({"vision_config": {"image_size": 8}}, "image_size is 8: it must be at least .*, 16"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        siglip_config(change)
    assert "\n" not in str(caught.value)


def rewritten(usual, folder, change):
    tensors = change(load_file(usual[1] / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((usual[1] / "config.json").read_text())
    return folder


WEIGHT = "vision_model.head.attention.in_proj_weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != WEIGHT}, f"missing: {WEIGHT}"),
        (lambda t: {**t, "text_model.gate": t[WEIGHT]}, "unknown: text_model.gate"),
        (
            lambda t: {**t, WEIGHT: t[WEIGHT][:5]},
            rf"mis-shaped: {WEIGHT} \(5, 36\) instead of \(108, 36\)",
        ),
        (lambda t: {k: v for k, v in t.items() if k != "logit_bias"}, "missing: logit_bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_siglip(rewritten(usual, tmp_path, change))


def test_other_files_and_the_same_functions(usual, tmp_path):
    """Kills: the numbers of places refused; functions that are new each time."""
    reference, folder = usual
    first = load_siglip(folder)
    places = {
        f"{part}_model.embeddings.position_ids": torch.arange(4)[None]
        for part in ("text", "vision")
    }
    torch.save({**reference.state_dict(), **places}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    second = load_siglip(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, first.images, second.images)
    jax.tree.map(np.testing.assert_array_equal, first.texts, second.texts)
    assert load_siglip(folder) is first
    one, two = (siglip_image_network(found.config.vision) for found in (first, second))
    assert one is two
    assert siglip_text_network(first.config.text) is siglip_text_network(second.config.text)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "siglip"


def test_loading_inside_a_traced_function_gives_arrays(tmp_path):
    """Kills: a number that belongs to a program, kept for the next one."""
    _, folder = theirs(tmp_path)
    jax.jit(lambda: load_siglip(folder).logit_bias)()
    siglip = load_siglip(folder)
    for leaf in jax.tree.leaves(siglip[1:]):
        assert isinstance(leaf, jax.Array | np.ndarray)  # what reads texts waits on the host
        assert not isinstance(leaf, jax.core.Tracer)
    assert np.isfinite(float(siglip.logit_scale) + float(siglip.logit_bias))


def test_other_sizes_of_images_are_refused(usual):
    siglip = load_siglip(usual[1])
    with pytest.raises(ValueError, match=r"\(1, 16, 17, 3\): the network needs \[n, 17, 17, 3\]"):
        siglip_image_network(siglip.config.vision)(siglip.images, jnp.zeros((1, 16, 17, 3)))
