"""Classifiers of torchvision's files as verifiers: probabilities, and what they refuse."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models import vit
from jaxsearch.verifiers.resize import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from jaxsearch.verifiers.torchvision_classifier import torchvision_classifier
from tests.jitted import called
from tests.models import classifiers
from tests.verifiers.pictures import assorted
from tests.verifiers.test_resize import published

NETWORKS = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
               "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2,
                 "layer_norm_eps": 1e-6},
    "vit": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
            "intermediate_size": 40, "image_size": 16, "patch_size": 8, "layer_norm_eps": 1e-6},
}  # fmt: skip
SMALL = {"size": 16, "short_side": 18}
PREPROCESSING = Preprocessing(16, 18, "bilinear", IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """A reference and its file."""
    pytest.importorskip("torch")
    model = classifiers.reference(request.param, num_labels=5, **NETWORKS[request.param])
    path = tmp_path_factory.mktemp("networks") / f"{request.param}.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.HEADS, 24, 3)
        yield model, str(classifiers.write(model, request.param, path))


def test_the_score_is_the_references_probability_of_the_label(network):
    """By Pillow and PyTorch, from pixels on. Kills: other preprocessing; other classes."""
    model, path = network
    verifier = torchvision_classifier(weights=path, **SMALL)
    levels = np.asarray(jnp.round(255 * assorted(24, 35))).astype(np.uint8)
    label = np.array([0, 4, 1, 2, 3, 3])
    x = np.stack([published(image, PREPROCESSING) for image in levels]).astype(np.float32)
    probability = np.asarray(jax.nn.softmax(classifiers.logits_of(model, x)))
    found = called(verifier, jnp.asarray(levels, jnp.float32) / 255, {"label": jnp.asarray(label)})
    np.testing.assert_allclose(found, probability[np.arange(6), label], rtol=2e-4)


def test_equal_settings_are_one_program_and_one_set_of_weights(network):
    one, other = (torchvision_classifier(weights=network[1], **SMALL) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a is b


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": ""}, "comes without weights: give the path of one of torchvision's"),
        ({"weights": "none.pth"}, "cannot read none.pth"),
        ({"short_side": 15}, "short_side is 15: it must be a whole number from 16"),
        ({"filter": "box"}, "filter='box' is unknown: pass 'bicubic' or 'bilinear'"),
        ({"path": "x"}, "path='x' is unknown: pass '8bit' or 'float'"),
        ({"dtype": "float64"}, "dtype is float64: it must be float32 or bfloat16"),
    ],
)
def test_bad_settings(network, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        torchvision_classifier(**{"weights": network[1], **SMALL, **settings})
    assert "\n" not in str(error.value)


def test_another_network_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other\.pth holds neither a ResNet, a ConvNeXt nor a ViT"
    ):
        torchvision_classifier(weights=str(tmp_path / "other.pth"))


def test_a_vit_takes_images_of_its_own_size(network):
    if not network[1].endswith("vit.pth"):
        pytest.skip("others take any")
    with pytest.raises(ValueError, match=r"size is 224: the network of .*vit\.pth takes 16"):
        torchvision_classifier(weights=network[1])
