"""Inception as a verifier: sizes as two frameworks make them, the order of its outputs."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsearch.verifiers.inception as module
from jaxsearch.verifiers.inception import inception, outputs, prepared
from jaxsearch.verifiers.resize import interpolate
from tests.jitted import called
from tests.models.test_inception import NARROW, Reference
from tests.verifiers.pictures import assorted

MAP = """# LabelMap
entry {
  target_class: 7
  target_class_string: "n01440764"
}
entry {
  target_class: 2
  target_class_string: "n09999999"
}
entry {
  target_class: 12
  target_class_string: "n01443537"
}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A reference, and the two files as settings; the network is narrow and sees 79 pixels."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("inception")
    reference = Reference(NARROW.narrower, NARROW.num_classes)
    reference(np.random.default_rng(0).normal(size=(2, 79, 79, 3)).astype(np.float32))
    torch.save(reference.weights, folder / "pt_inception.pth")
    (folder / "map.pbtxt").write_text(MAP)
    settings = {"weights": str(folder / "pt_inception.pth"), "label_map": str(folder / "map.pbtxt")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CONFIG", NARROW)
        patch.setattr(module, "SIDE", 79)
        yield reference, settings


@pytest.mark.parametrize("size", [(5, 7), (90, 200)])
def test_half_pixels_are_pytorchs_interpolation(size):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).uniform(size=(2, *size, 3)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2), (31, 40), mode="bilinear", align_corners=False
    ).permute(0, 2, 3, 1)
    found = interpolate(jnp.asarray(images), 31, 40, half_pixels=True)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)  # its places are float32


def test_whole_pixels_are_tensorflows_interpolation():
    """Known answers: places at i * inner / outer; the last pixel is repeated."""
    row = jnp.asarray([0.0, 1.0, 5.0])[None, None, :, None]
    found = interpolate(row, 1, 6, half_pixels=False)
    np.testing.assert_allclose(found.ravel(), [0, 0.5, 1, 3, 5, 5], atol=1e-6)
    np.testing.assert_allclose(interpolate(row, 1, 2, half_pixels=False).ravel(), [0, 3], atol=1e-6)


def test_ranges():
    """Levels less 128 and over 128, or [0,1] to [-1,1]."""
    ends = assorted(9, 9, 1)[:2]
    for resize, black, white in (("tensorflow", -1, 127 / 128), ("pytorch", -1, 1)):
        found = prepared(ends, resize, "8bit")
        assert found.shape == (2, 299, 299, 3)
        np.testing.assert_allclose(found[0], black, atol=1e-6)
        np.testing.assert_allclose(found[1], white, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_the_score_is_the_probability_of_the_labels_output(files, bias):
    """Kills: outputs in their own order; a probability among those of labels only; the bias."""
    reference, settings = files
    images, label = jnp.round(255 * assorted(40, 33)) / 255, np.array([0, 1, 2, 0, 1, 2])
    verifier = inception(**settings, resize="pytorch", bias=bias)
    found = called(verifier, images, {"label": jnp.asarray(label)})
    _, logits = reference(np.array(prepared(images, "pytorch", "float")))
    logits = logits if bias else logits - reference.weights["fc.bias"].numpy()
    probability = np.asarray(jax.nn.softmax(logits))
    wanted = probability[np.arange(6), np.array([7, 12, 2])[label]]
    np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_equal_settings_are_one_program_and_one_set_of_weights(files):
    one, other = inception(**files[1]), inception(**files[1])
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a is b


def test_labels_are_synsets_in_the_order_of_their_names(files):
    assert outputs(files[1]["label_map"], 13) == (7, 12, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "maps no class: it has no entries with a target_class"),
        (MAP.replace("12", "13"), "is no map to the 13 outputs of the network"),
        (MAP.replace("12", "7"), "is no map to the 13 outputs of the network"),
    ],
)
def test_bad_maps(tmp_path, text, message):
    (tmp_path / "map.pbtxt").write_text(text)
    with pytest.raises(ValueError, match=message):
        outputs(str(tmp_path / "map.pbtxt"), 13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": ""}, "give the path of pt_inception-2015-12-05-6726825d.pth as `weights`"),
        ({"label_map": ""}, "imagenet_2012_challenge_label_map_proto.pbtxt as `label_map`"),
        ({"label_map": "none"}, "cannot read none"),
        ({"resize": "x"}, "resize is 'x': pass 'tensorflow' or 'pytorch'"),
        ({"path": "x"}, "path is 'x': pass '8bit' or 'float'"),
    ],
)
def test_bad_settings(files, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        inception(**{**files[1], **settings})
    assert "\n" not in str(error.value)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="c = 1 \\(grey\\) or 3 \\(RGB\\)"):
        prepared(jnp.zeros((1, 4, 4, 2)), "pytorch", "float")
