"""ConvNeXt against transformers' at random weights, in torchvision's files."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from jaxsearch.models import convnext
from jaxsearch.models.pickles import read_state_dict
from tests.models import classifiers


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A file, images of sides that are cut, and what the reference says of them."""
    pytest.importorskip("torch")
    model = classifiers.reference(
        "convnext", hidden_sizes=[8, 12, 16], depths=[2, 1, 3], num_stages=3, num_labels=11,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    path = classifiers.write(model, "convnext", tmp_path_factory.mktemp("c") / "convnext.pth")
    x = classifiers.images(37, 50)
    return path, x, classifiers.logits_of(model, x)


def test_it_computes_what_transformers_does(case):
    """Kills: the other gelu; the norm before the mean; a scale that is left out."""
    path, x, wanted = case
    assert classifiers.error(classifiers.applied(convnext, path, x), wanted) < 2e-5


def test_half_precision_stays_near(case):
    path, x, wanted = case
    found = classifiers.applied(convnext, path, x, jnp.bfloat16)
    assert found.dtype == jnp.float32
    assert 1e-4 < classifiers.error(found, wanted) < 0.2


@pytest.mark.parametrize(
    ("name", "number"), [("convnext_tiny", 28_589_128), ("convnext_large", 197_767_336)]
)
def test_the_published_size(name, number):
    assert classifiers.num_parameters(convnext, name) == number


def test_what_lacks_a_layer_is_refused_by_name(case):
    path, *_ = case
    tensors = dict(read_state_dict(path))
    del tensors["classifier.2.weight"]
    with pytest.raises(ValueError, match=r"convnext\.pth is no ConvNeXt of torchvision's"):
        convnext.config_of(tensors, path)
