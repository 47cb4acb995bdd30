"""Aesthetic predictors as one affine map, against the layers that they were trained as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxsearch.models.aesthetic import affine, load_aesthetic_head

torch = pytest.importorskip("torch")


def predictor(features: int, *, last: bool = False, activation: bool = False):
    """The layers as published; in version 2.5 the last has a dropout before it too."""
    sizes, layers = [features, 1024, 128, 64, 16, 1], []
    for place, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        layers.append(torch.nn.Linear(inner, outer))
        if activation and place < 4:
            layers.append(torch.nn.ReLU())
        if place < (4 if last else 3):
            layers.append(torch.nn.Dropout(0.2))
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


def saved(layers, path, prefix, **changes):
    tensors = {f"{prefix}.{key}": tensor for key, tensor in layers.state_dict().items()}
    torch.save({**tensors, **changes}, path)
    return path


def embeddings(features: int) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(9, features))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("features", "prefix", "half"),
    [(768, "layers", False), (1152, "scoring_head", True), (24, "layers.scoring_head", False)],
)
def test_is_what_the_layers_compute(features, prefix, half, tmp_path, record_property):
    """Kills: layers in another order; a bias that does not go through the following layers."""
    torch.manual_seed(0)
    layers = predictor(features, last=prefix != "layers")
    if half:  # as version 2.5 is stored
        layers = layers.bfloat16()
    head = load_aesthetic_head(saved(layers, tmp_path / "head.pth", prefix))
    x = embeddings(features)
    wanted = layers.double()(torch.from_numpy(x).double()).numpy()[:, 0]
    found = x.astype(np.float64) @ np.asarray(head.weight, np.float64) + float(head.bias)
    error = np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))
    record_property("relative", float(error))
    assert error < 1e-6
    assert head.weight.shape == (features,)
    assert head.bias.shape == ()
    assert np.ptp(wanted) > 1e-3


def test_in_float64_nothing_is_lost():
    """Kills: layers joined in float32."""
    torch.manual_seed(0)
    layers = predictor(768).double()
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    weight, bias = affine([(one.weight.numpy(), one.bias.numpy()) for one in linear])
    x = embeddings(768).astype(np.float64)
    wanted = layers(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(x @ weight.T + bias, wanted, rtol=0, atol=1e-14)


def test_the_same_file_is_read_once(tmp_path):
    path = saved(predictor(8), tmp_path / "head.pth", "layers")
    assert load_aesthetic_head(path) is load_aesthetic_head(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers.8.weight": torch.zeros(1)}, "is no linear aesthetic predictor: it has the keys"),
        ({"layers.2.weight": torch.zeros(128, 5)}, r"layers.2.weight is \(128, 5\)"),
        ({"layers.4.bias": torch.zeros(5)}, r"layers.4.weight is .* its bias \(5,\)"),
        (
            {"layers.7.weight": torch.zeros(2, 16), "layers.7.bias": torch.zeros(2)},
            r"layers.7.weight is \(2, 16\)",
        ),
        ({"layers.6.bias": torch.full((16,), torch.nan)}, "layers.6.bias has values that are not"),
        ({"layers.6.bias": torch.zeros(16, dtype=torch.int32)}, "layers.6.bias has values that"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, changes, message):
    path = saved(predictor(8), tmp_path / "head.pth", "layers", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_aesthetic_head(path)
    assert "head.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_predictors_with_activations_are_refused(tmp_path):
    """Their layers have the same sizes; only their numbers say that they are not linear."""
    path = saved(predictor(8, activation=True), tmp_path / "head.pth", "layers")
    with pytest.raises(ValueError, match="is no linear aesthetic predictor"):
        load_aesthetic_head(path)
