"""ViT against transformers' at random weights, in torchvision's files."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from jaxsearch.models import vit
from jaxsearch.models.pickles import read_state_dict
from tests.models import classifiers


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A file, images, and what the reference says of them; width 24 has three heads here."""
    pytest.importorskip("torch")
    model = classifiers.reference(
        "vit", hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
        image_size=32, patch_size=8, num_labels=11, layer_norm_eps=1e-6,
    )  # fmt: skip
    path = classifiers.write(model, "vit", tmp_path_factory.mktemp("vit") / "vit.pth")
    x = classifiers.images(32, 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.HEADS, 24, 3)
        yield path, x, classifiers.logits_of(model, x)


def test_it_computes_what_transformers_does(case):
    """Kills: the other gelu; the token last; no positions; no last norm; an epsilon."""
    path, x, wanted = case
    assert classifiers.error(classifiers.applied(vit, path, x), wanted) < 2e-5


def test_half_precision_stays_near(case):
    path, x, wanted = case
    found = classifiers.applied(vit, path, x, jnp.bfloat16)
    assert found.dtype == jnp.float32
    assert 1e-4 < classifiers.error(found, wanted) < 0.2


@pytest.mark.parametrize(
    ("name", "number"),
    [("vit_b_16", 86_567_656), ("vit_l_32", 306_535_400), ("vit_h_14", 633_470_440)],
)
def test_the_published_size(name, number):
    assert classifiers.num_parameters(vit, name) == number


def test_both_names_of_the_perceptron_are_read(case):
    """Files have the former names, networks of today the latter."""
    path, *_ = case
    tensors = read_state_dict(path)
    assert any(".mlp.linear_1." in key for key in tensors)
    newer = {
        key.replace("linear_1", "0").replace("linear_2", "3"): one for key, one in tensors.items()
    }
    assert vit.from_torchvision(newer).keys() == vit.from_torchvision(tensors).keys()
    assert vit.config_of(newer, path) == vit.config_of(tensors, path)


def test_a_width_that_is_not_known_is_refused(case, monkeypatch):
    path, *_ = case
    monkeypatch.delitem(vit.HEADS, 24)
    with pytest.raises(
        ValueError, match=r"is a ViT of width 24: known are those of 768, 1024, 1280"
    ):
        vit.config_of(read_state_dict(path), path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 15}, "patch_size is 15, which does not divide 224"),
        ({"num_heads": 5}, "num_heads is 5, which does not divide 768"),
    ],
)
def test_shapes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        vit.VitConfig(**settings)
