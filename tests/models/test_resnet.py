"""ResNet against transformers' at random weights and statistics, in torchvision's files."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.models import resnet
from jaxsearch.models.loading import abstract_module
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.state_dict import wanted_shapes as shapes
from tests.models import classifiers

BASIC = {"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [2, 1], "layer_type": "basic"}
BOTTLENECK = {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 2]}


@pytest.fixture(scope="module", params=[BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def case(request, tmp_path_factory):
    """A file, images of odd sides, and what the reference says of them."""
    pytest.importorskip("torch")
    model = classifiers.reference("resnet", num_labels=11, **request.param)
    path = classifiers.write(model, "resnet", tmp_path_factory.mktemp("resnet") / "resnet.pth")
    x = classifiers.images(37, 42)
    return path, x, classifiers.logits_of(model, x)


def test_it_computes_what_transformers_does(case):
    """Kills: the stride in the first convolution; an epsilon; a mean that is left out; padding."""
    path, x, wanted = case
    assert classifiers.error(classifiers.applied(resnet, path, x), wanted) < 2e-5


def test_half_precision_stays_near(case):
    path, x, wanted = case
    found = classifiers.applied(resnet, path, x, jnp.bfloat16)
    assert found.dtype == jnp.float32
    assert 1e-4 < classifiers.error(found, wanted) < 0.2


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("wide_resnet50_2", 68_883_240),
    ],
)
def test_the_published_size(name, number):
    assert classifiers.num_parameters(resnet, name) == number


@pytest.mark.parametrize("name", resnet.PUBLISHED)
def test_the_shape_is_read_from_the_tensors(name):
    """Of networks with one block a stage; groups and widths among them."""
    config = dataclasses.replace(resnet.PUBLISHED[name], depths=(1, 1, 1, 1))
    abstract = abstract_module(resnet.build(config))
    tensors = {key: np.broadcast_to(0.0, shape) for key, shape in shapes(abstract).items()}
    assert resnet.config_of(tensors, "test") == config


def test_what_lacks_a_layer_is_refused_by_name(case):
    path, *_ = case
    tensors = dict(read_state_dict(path))
    del tensors["fc.weight"]
    with pytest.raises(
        ValueError, match=r"resnet\.pth is no ResNet of torchvision's: .*fc\.weight"
    ):
        resnet.config_of(tensors, path)
