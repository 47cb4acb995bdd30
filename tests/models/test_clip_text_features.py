"""CLIP's encoders as SDXL reads them against `transformers`, through the files that it writes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsearch.models.clip_text import ClipTextConfig
from jaxsearch.models.clip_text_features import (
    ARCHITECTURES,
    ClipTextFeatures,
    ClipTextFeaturesConfig,
    clip_text_features_config,
    clip_text_features_network,
    load_clip_text_features,
)
from jaxsearch.models.loading import abstract_module, parameters
from tests.models.published import relative, written

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 11,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 7,
    "layer_norm_eps": 0.01,  # large, so that it shows where it stands
    "projection_dim": 6,
    "hidden_act": "gelu",
    "bos_token_id": 9,
}
# The end comes twice, and not as the largest token.
IDS = np.array([[9, 0, 5, 8, 10, 8, 8], [9, 1, 2, 3, 4, 5, 8], [9, 8, 0, 0, 0, 0, 10]])


def theirs(folder, name, **changes):
    config = transformers.CLIPTextConfig(**{**TINY, **changes})
    return written(getattr(transformers, name)(config), folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return theirs(tmp_path_factory.mktemp("text"), ARCHITECTURES[1], eos_token_id=8)


CASES = {
    "plain": (ARCHITECTURES[0], {"eos_token_id": 8}),
    "projected": (ARCHITECTURES[1], {"eos_token_id": 8}),
    "largest": (ARCHITECTURES[1], {"eos_token_id": 2}),
    "one_layer": (ARCHITECTURES[0], {"num_hidden_layers": 1, "eos_token_id": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_computes_as_transformers_does(case, tmp_path, record_property):
    """Kills: the last layer for the one before; the last normalisation on what tokens become, or
    none on the text as a whole; a text read where it does not end; the largest token for the end.
    """
    name, changes = CASES[case]
    reference, folder = theirs(tmp_path, name, **changes)
    config, params = load_clip_text_features(folder)
    found = clip_text_features_network(config)(params, jnp.asarray(IDS, jnp.int32))
    wanted = reference(torch.as_tensor(IDS), output_hidden_states=True)
    tokens = wanted.hidden_states[-2].numpy()
    record_property("tokens", relative(found.tokens, tokens))
    assert relative(found.tokens, tokens) < 2e-6
    assert found.tokens.dtype == jnp.float32
    if name == ARCHITECTURES[0]:
        assert found.whole is None
    else:
        record_property("whole", relative(found.whole, wanted.text_embeds.numpy()))
        assert relative(found.whole, wanted.text_embeds.numpy()) < 2e-6
        assert found.whole.dtype == jnp.float32


@pytest.mark.parametrize(
    ("text", "projection_dim", "number"),
    [
        ({}, None, 123_060_480),  # CLIP ViT-L/14
        (
            {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "hidden_act": "gelu",
            },
            1280,
            694_659_840,  # OpenCLIP ViT-bigG/14
        ),
    ],
)
def test_published_sizes(text, projection_dim, number):
    config = ClipTextFeaturesConfig(
        text=ClipTextConfig(**text), projection_dim=projection_dim, end=None
    )
    whole = parameters(abstract_module(lambda rngs: ClipTextFeatures(config, rngs=rngs)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text_projection.weight"), "missing: text_projection.weight"),
        (lambda t: t.update(extra=t["text_projection.weight"]), "unknown: extra"),
        (
            lambda t: t.update({"text_projection.weight": t["text_projection.weight"][:5]}),
            r"mis-shaped: text_projection.weight \(5, 24\) instead of \(6, 24\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(usual, tmp_path, change, message):
    tensors = load_file(usual[1] / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        load_clip_text_features(tmp_path)


MISTAKES = {
    "class": ({"architectures": ["CLIPModel"]}, "architectures is .'CLIPModel'.: only"),
    "projection": ({"projection_dim": 0}, "projection_dim is 0"),
    "end": ({"eos_token_id": -1}, "eos_token_id is -1"),
    "unknown": ({"window": 2}, r"entry 'window' \(it is 2\) is not known"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unsupported_entries_are_named(usual, mistake):
    change, message = MISTAKES[mistake]
    entries = json.loads((usual[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        clip_text_features_config({**entries, **change})
