"""Images that go by in batches against the same images at once."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxsearch.metrics import statistics_of
from jaxsearch.metrics.extractor import Extracted, Extractor
from jaxsearch.metrics.population import population
from jaxsearch.zoo import references
from jaxsearch.zoo.digits.data import splits
from jaxsearch.zoo.features import digits, encoder, scenes
from jaxsearch.zoo.verifiers.encoders import clip_images
from tests.zoo import checkpoints


def _projected(params, images):
    flat = images.reshape(len(images), -1)
    return Extracted(flat @ params["a"], flat @ params["b"], jnp.sin(flat))


RNG = np.random.default_rng(0)
TOY = Extractor(
    "toy", _projected, {k: jnp.asarray(RNG.normal(size=(24, 5)), jnp.float32) for k in "ab"}
)
LEVELS = RNG.integers(0, 256, size=(101, 4, 2, 3)).astype(np.uint8)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("batch", [7, 200])
def test_batches_are_one_population(devices, batch):
    """Kills: padding that counts, devices whose sums are lost, levels that are not in [0, 1]."""
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("particle",), axis_types=(AxisType.Auto,))
    gone: list[int] = []
    pieces = [LEVELS[:3], LEVELS[3:50], LEVELS[50:]]
    found = population(TOY, pieces, batch=batch, mesh=mesh, progress=gone.append)
    wanted = _projected(TOY.params, jnp.asarray(LEVELS / 255, jnp.float32))
    np.testing.assert_allclose(found.features, wanted.features, atol=1e-5)
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)
    assert found.number == gone[-1] == 101
    for one, values in ((found.statistics, wanted.features), (found.spatial, wanted.spatial)):
        whole = statistics_of(values)
        np.testing.assert_allclose(one.mean, whole.mean, atol=1e-5)
        np.testing.assert_allclose(one.covariance, whole.covariance, atol=1e-5)
        assert one.number == 101


def test_single_images_may_be_forgotten():
    found = population(TOY, [LEVELS], keep=False)
    assert found.features is None
    assert found.logits is None
    assert found.statistics.number == 101


def test_digits_are_the_judges():
    images = (splits().held_out.pixels[:20] + 1) / 2
    found, judge = population(digits(), [images]), digits()
    wanted = jax.jit(judge.apply)(judge.params, jnp.asarray(images))
    np.testing.assert_allclose(found.features, wanted.features, atol=1e-5)
    labels = splits().held_out.labels[:20]
    assert np.mean(np.argmax(found.logits, axis=1) == labels) > 0.9


@pytest.mark.parametrize(("network", "size"), [("attributes", 96), ("contrastive", 64)])
def test_scenes(network, size):
    images = RNG.uniform(size=(3, 48, 48, 3)).astype(np.float32)
    found = population(scenes(network=network), [images], batch=2)
    assert found.features.shape == (3, size)
    assert found.logits is None
    assert np.std(found.features, axis=0).max() > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there are 0 images: pass 2 or more"),
        ([LEVELS[:1]], "there are 1 images: pass 2 or more"),
        ([LEVELS, LEVELS[:, :3]], "images of the sizes (4, 2, 3) and (3, 2, 3) [h,w,c]"),
        ([LEVELS.astype(np.int32)], "images are of int32: pass uint8, or floats in [0, 1]"),
        ([LEVELS.astype(np.float32)], "floats of images go to 2"),
        ([LEVELS, LEVELS / np.float32(255)], "images are of uint8 and of float32"),
        ([LEVELS[0]], "images have the shape (4, 2, 3): pass [n,h,w,c]"),
        ([np.full((4, 4, 2, 3), np.nan, np.float32)], "features of an image are not finite"),
    ],
)
def test_bad_images(images, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        population(TOY, images, batch=8)


def test_unknown_network():
    with pytest.raises(ValueError, match="network is 'x': pass 'attributes' or 'contrastive'"):
        scenes(network="x")


def test_a_clip_is_its_embedding(tmp_path):
    """As long as the network makes it: CLIP-FID is of those, not of unit vectors."""
    torch = pytest.importorskip("torch")
    clip, folder = checkpoints.clip(tmp_path / "clip")
    extractor = encoder(weights=str(folder))
    images = RNG.uniform(size=(4, 25, 31, 3)).astype(np.float32)
    found = population(extractor, [images], batch=4)
    size = clip.config.vision_config.image_size
    pixels = clip_images(size, "8bit")(jnp.asarray(images))
    with torch.no_grad():
        wanted = clip.eval().visual_projection(
            clip.vision_model(torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)).pooler_output
        )
    assert extractor.name == "clip"
    np.testing.assert_allclose(found.features, wanted.numpy(), atol=2e-5)
    assert np.std(np.linalg.norm(wanted, axis=1)) > 0
    with pytest.raises(ValueError, match="encoder comes without weights"):
        encoder()


def test_real_images_by_name(monkeypatch):
    """Two populations of one kind, of which none is in the other."""
    monkeypatch.setattr(references, "_SCENES", 5)
    monkeypatch.setattr(references, "_POOL", 20)
    shapes = {"digits": [(360, 32, 32, 1), (719, 32, 32, 1)], "scenes": [(5, 48, 48, 3)] * 2}
    for name, wanted in shapes.items():
        both = references.REFERENCES[name]()
        assert [x.shape for x in both] == wanted
        assert min(x.min() for x in both) >= 0
        assert max(x.max() for x in both) <= 1
        one, other = (x.reshape(len(x), -1) for x in both)
        assert not (one[:20, None] == other[None]).all(axis=-1).any()
