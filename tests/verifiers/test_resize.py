"""Resizing against Pillow, level by level; the float path against the 8-bit one and its weights."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from jaxsearch.core.gradients import differentiable
from jaxsearch.core.pixels import to_pixels
from jaxsearch.verifiers.resize import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PATHS,
    Preprocessing,
    _pass,
    preprocess,
    preprocess_whole,
    resize,
    resize_float,
)

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
resized = jax.jit(resize, static_argnums=(1, 2, 3))
both_filters = pytest.mark.parametrize("kind", FILTERS)
# (height, width) before and after: up, down, both, one side only, single pixels, long and thin.
SIZES = (
    ((8, 8), (32, 32)), ((64, 64), (224, 224)), ((64, 48), (13, 9)), ((40, 40), (17, 90)),
    ((40, 40), (90, 17)), ((33, 47), (33, 20)), ((33, 47), (20, 47)), ((21, 34), (21, 34)),
    ((1, 1), (5, 7)), ((1, 9), (4, 3)), ((9, 1), (3, 4)), ((50, 30), (1, 1)), ((60, 60), (1, 59)),
    ((3, 500), (24, 24)), ((500, 3), (24, 24)), ((2, 300), (3, 2)), ((80, 40), (16, 6)),
    ((80, 40), (16, 9)), ((40, 40), (4, 22)), ((40, 40), (4, 24)),
)  # fmt: skip
CLIP = Preprocessing(24, 24, "bicubic", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
IMAGENET = Preprocessing(21, 32, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
SIGLIP = Preprocessing(30, None, "bicubic")
PREPROCESSINGS = {"clip": CLIP, "imagenet": IMAGENET, "siglip": SIGLIP}


def noise(h: int, w: int, c: int = 3) -> np.ndarray:
    """uint8 [3,h,w,c]: noise, black and white only, and a soft slope."""
    rng = np.random.default_rng(h * 1000 + w)
    levels = rng.integers(0, 256, (h, w, c))
    slope = 100 + 5 * np.arange(w)[None, :, None] - 3 * np.arange(h)[:, None, None] + levels // 64
    images = [levels, 255 * (levels > 127), np.clip(slope, 0, 255)]
    return np.stack(images).astype(np.uint8)


def by_pillow(image: np.ndarray, height: int, width: int, kind: str) -> np.ndarray:
    pixels = image[..., 0] if image.shape[-1] == 1 else image
    found = np.asarray(Image.fromarray(pixels).resize((width, height), FILTERS[kind]))
    return found.reshape(height, width, -1)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two photographs, uint8 [427,640,3]."""
    return load_sample_images().images


@both_filters
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_equals_pillow(before, after, kind):
    """Kills: the passes in one order always; weights rounded down, or of another sum; sums too."""
    images = noise(*before)
    expected = [by_pillow(image, *after, kind) for image in images]
    np.testing.assert_array_equal(resized(jnp.asarray(images), *after, kind), expected)


@both_filters
@pytest.mark.parametrize("after", [(224, 224), (224, 335), (512, 512), (90, 640), (600, 800)])
def test_equals_pillow_on_photographs(photographs, after, kind):
    found = resized(jnp.asarray(photographs), *after, kind)
    expected = [by_pillow(image, *after, kind) for image in photographs]
    np.testing.assert_array_equal(found, expected)


def test_one_channel_and_many_are_resized_as_three():
    images = noise(20, 30, 5)
    found = resize(jnp.asarray(images), 11, 40)
    for channel in range(5):
        grey = images[..., channel : channel + 1]
        expected = [by_pillow(image, 11, 40, "bicubic") for image in grey]
        np.testing.assert_array_equal(found[..., channel : channel + 1], expected)


def test_sums_of_weights_and_levels_fit_32_bits():
    """The bound that `_levels_pass` states."""
    most = 0.0
    for inner in (1, 2, 3, 4, 5, 7, 11, 17, 64, 100):
        for outer in range(1, 80):
            for kind in FILTERS:
                weight = _pass(1, inner, outer, kind, 0, outer).weight
                np.testing.assert_allclose(weight.sum(axis=1), 1, atol=1e-12)
                most = max(most, np.maximum(weight, 0).sum(axis=1).max())
    assert 1.13 < most < 1.14
    assert 255 * most * 2**22 + 2**21 < 2**31


def published(image: np.ndarray, wanted: Preprocessing) -> np.ndarray:
    """What torchvision's transforms of Pillow images do, by Pillow and NumPy alone."""
    height, width = image.shape[:2]
    if wanted.short_side is None:
        height = width = wanted.size
    elif width <= height:
        height, width = int(wanted.short_side * height / width), wanted.short_side
    else:
        height, width = wanted.short_side, int(wanted.short_side * width / height)
    levels = by_pillow(image, height, width, wanted.filter)
    top, left = (round((side - wanted.size) / 2.0) for side in (height, width))
    levels = levels[top : top + wanted.size, left : left + wanted.size]
    return (levels / 255 - np.array(wanted.mean)) / np.array(wanted.std)


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("size", [(64, 64), (16, 16), (45, 80), (83, 40), (24, 24), (33, 32)])
def test_preprocessing_equals_what_is_published(size, name):
    """Kills: the offset rounded half up, or down; the long side rounded; mean and std swapped."""
    images = noise(*size)
    found = jax.jit(partial(preprocess, wanted=PREPROCESSINGS[name]))(
        jnp.asarray(images, jnp.float32) / 255
    )
    assert found.dtype == jnp.float32
    expected = [published(image, PREPROCESSINGS[name]) for image in images]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_preprocessing_of_photographs(photographs):
    wanted = Preprocessing(224, 256, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    for image in (photographs[0], photographs[1].transpose(1, 0, 2)):
        found = preprocess(jnp.asarray(image, jnp.float32)[None] / 255, wanted)[0]
        np.testing.assert_allclose(found, published(image, wanted), atol=2e-6)


WHOLE = {"size": 24, "mean": CLIP.mean, "std": CLIP.std}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    "size", [(64, 64), (16, 16), (45, 80), (83, 40), (24, 24), (33, 32), (24, 20), (200, 17)]
)
def test_whole_images_are_those_of_a_tensor_that_torchvision_resizes(size, antialias):
    """By PyTorch's own interpolation, which is what torchvision calls for a tensor.

    Kills: one filter for the other; what overshoots cut off; sides rounded down; black before the
    mean is taken, or the odd line of it on the other side; a square that is cut out.
    """
    torch = pytest.importorskip("torch")
    levels = noise(*size)
    found = jax.jit(partial(preprocess_whole, **WHOLE, antialias=antialias))(
        jnp.asarray(levels, jnp.float32) / 255
    )
    # In float64: places are rounded in PyTorch's float32.
    images = torch.from_numpy(levels).permute(0, 3, 1, 2).double() / 255
    sides = [round(side * 24 / max(size)) for side in size]
    if max(size) != 24:
        images = torch.nn.functional.interpolate(
            images, sides, mode="bicubic", align_corners=False, antialias=antialias
        )
    (above, left), (below, right) = zip(
        *((spare // 2, spare - spare // 2) for spare in (24 - side for side in sides)), strict=True
    )
    images = torch.nn.functional.pad(images, (left, right, above, below))
    mean, std = (torch.tensor(one)[:, None, None] for one in (CLIP.mean, CLIP.std))
    wanted = ((images - mean) / std).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    if size == (64, 64):
        black, white = ((value - CLIP.mean[0]) / CLIP.std[0] for value in (0, 1))
        assert wanted[..., 0].min() < black - 1e-3  # it overshoots
        assert wanted[..., 0].max() > white + 1e-3


def test_whole_images_of_floats_and_of_levels():
    """Kills: levels that are rounded on both paths, or on none; a gradient of what is rounded."""
    images = jnp.asarray(noise(40, 33), jnp.float32) / 255 * 0.9 + 0.0137
    whole = partial(preprocess_whole, **WHOLE, antialias=True)
    levels, floats = whole(images), whole(images, path="float")
    assert 1e-4 < np.abs(levels - floats).max() < 0.01
    rounded = jnp.floor(images * 255 + 0.5) / 255
    np.testing.assert_allclose(whole(rounded, path="float"), levels, atol=1e-5)
    grey = whole(images[..., :1], path="float")
    np.testing.assert_allclose(grey[..., 0], floats[..., 0], atol=1e-5)
    bad = whole(images.at[1, 0, 0, 0].set(jnp.nan))
    assert jnp.isnan(bad).all(axis=(1, 2, 3)).tolist() == [False, True, False]
    slope = jax.grad(lambda x: jnp.sum(whole(x, path="float") ** 2))(images)
    assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match="it has no gradient"):
        jax.grad(lambda x: jnp.sum(differentiable(whole(x), x, "it")))(images)


def test_levels_are_those_of_the_pictures_of_a_run():
    """Kills: rounding down; another rounding than `runs/images.py`."""
    images = np.random.default_rng(0).uniform(-0.1, 1.1, (4, 9, 9, 3)).astype(np.float32)
    wanted = Preprocessing(9, 9, mean=(0, 0, 0), std=(1, 1, 1))
    found = np.asarray(preprocess(jnp.asarray(images), wanted)) * 255
    np.testing.assert_allclose(found, to_pixels(images), atol=1e-4)


def test_the_float_path_is_near_the_levels(photographs):
    """Half a level of each rounding: twice of levels in between, once of the result."""
    for kind in FILTERS:
        for after in ((96, 96), (430, 700)):
            images = jnp.asarray(photographs[:1])
            levels = resize(images, *after, kind).astype(jnp.float32)
            floats = 255 * resize_float(images.astype(jnp.float32) / 255, *after, kind)
            distance = np.abs(np.asarray(levels - floats))
            assert 0.3 < distance.max() < 1.1
            assert distance.mean() < 0.3


@both_filters
@pytest.mark.parametrize(("before", "after"), SIZES[2:5])
def test_the_float_path_keeps_what_overshoots_in_bounds(before, after, kind):
    images = noise(*before)
    levels = resized(jnp.asarray(images), *after, kind).astype(jnp.float32)
    floats = 255 * resize_float(jnp.asarray(images, jnp.float32) / 255, *after, kind)
    assert np.abs(np.asarray(levels - floats)).max() < 1.1


@both_filters
@pytest.mark.parametrize(("before", "after"), [((5, 4), (3, 7)), ((6, 3), (2, 2))])
def test_the_gradient_of_the_float_path_is_the_transposed_weights(before, after, kind):
    """Kills: a gradient that vanishes where values are clipped, at white and black."""
    f = partial(resize_float, height=after[0], width=after[1], filter=kind)
    grey = jnp.full((1, *before, 1), 0.5)
    unit = jnp.eye(grey.size, dtype=jnp.float32).reshape(grey.size, *before, 1)
    columns = (f(grey + 0.25 * unit) - f(grey)).reshape(grey.size, -1) / 0.25  # nothing is clipped
    weight = jax.random.normal(jax.random.key(0), (1, *after, 1))
    expected = np.asarray(columns) @ np.asarray(weight).ravel()
    for image in (grey, jnp.ones_like(grey), jnp.zeros_like(grey)):
        found = jax.grad(lambda image: jnp.sum(weight * f(image)))(image)
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


def test_the_gradient_through_a_preprocessing_is_finite_on_any_path_that_has_one():
    images = jnp.asarray(noise(40, 33), jnp.float32) / 255
    for wanted in PREPROCESSINGS.values():
        found = jax.grad(lambda x, wanted=wanted: jnp.sum(preprocess(x, wanted, "float") ** 2))(
            images
        )
        assert np.isfinite(found).all()
        assert np.count_nonzero(found) > 0.3 * images.size


@pytest.mark.parametrize("size", [(24, 24), (40, 33)])
def test_levels_have_no_gradient_and_a_search_is_told_so(size):
    """Kills: levels that pass for differentiable, so that an ascent would stand still."""
    images = jnp.asarray(noise(*size), jnp.float32) / 255

    def score(images: jax.Array) -> jax.Array:
        found = jax.jit(preprocess, static_argnums=(1, 2))(images, CLIP, "8bit")
        return jnp.sum(differentiable(found, images, "the 8-bit path"))

    with pytest.raises(ValueError, match="the 8-bit path has no gradient"):
        jax.grad(score)(images)


@pytest.mark.parametrize("path", PATHS)
def test_under_jit_and_vmap_and_traced_once(path):
    traces = []

    @jax.jit
    def f(images):
        traces.append(images.shape)
        return preprocess(images, CLIP, path)

    images = jnp.asarray(np.stack([noise(40, 33), noise(40, 33)[::-1]]), jnp.float32) / 255
    one, other = f(images[0]), f(images[1])
    assert len(traces) == 1
    np.testing.assert_allclose(one, other[::-1], atol=1e-5)
    mapped = jax.vmap(partial(preprocess, wanted=CLIP, path=path))(images)
    np.testing.assert_allclose(mapped, jnp.stack([one, other]), atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_grey_is_its_rgb_copy(path):
    grey = jnp.asarray(noise(20, 31, 1), jnp.float32) / 255
    found = preprocess(grey, CLIP, path)
    rgb = preprocess(jnp.repeat(grey, 3, axis=-1), CLIP, path)
    np.testing.assert_allclose(found, rgb, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_an_image_that_is_not_finite_is_nan_and_its_neighbours_are_not(path):
    """Also where its bad pixel is cut off."""
    images = jnp.full((4, 30, 90, 3), 0.5).at[1, 0, 0, 2].set(jnp.nan).at[3, 7, 7].set(jnp.inf)
    found = preprocess(images, CLIP, path)
    assert jnp.isnan(found).all(axis=(1, 2, 3)).tolist() == [False, True, False, True]
    assert jnp.isfinite(found).all(axis=(1, 2, 3)).tolist() == [True, False, True, False]


IMAGES = jnp.zeros((1, 8, 8, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(preprocess, jnp.zeros((1, 8, 8, 4)), CLIP), "c = 1 (grey) or 3 (RGB)"),
        (partial(preprocess, jnp.zeros((1, 0, 8, 3)), CLIP), "shape (1, 0, 8, 3): pass [n,h,w,c]"),
        (partial(preprocess, IMAGES, CLIP, "exact"), "path='exact' is unknown: pass '8bit'"),
        (partial(preprocess, IMAGES, CLIP._replace(filter="box")), "filter='box' is unknown"),
        (partial(preprocess, IMAGES, CLIP._replace(short_side=23)), "short_side is 23: it must"),
        (partial(preprocess, IMAGES, CLIP._replace(size=0)), "size is 0: it must"),
        (
            partial(preprocess_whole, jnp.zeros((1, 100, 1, 3)), **WHOLE, antialias=True),
            "images of 100x1 pixels would have no side left at 24",
        ),
        (
            partial(preprocess_whole, IMAGES, **WHOLE, antialias=True, path="exact"),
            "path='exact' is unknown",
        ),
        (partial(resize, IMAGES, 3, 3), "float32 of shape (1, 8, 8, 3): pass uint8 [n,h,w,c]"),
        (partial(resize, IMAGES.astype(jnp.uint8), 0, 3), "a side after resizing is 0"),
        (partial(resize_float, IMAGES, 3, 0), "a side after resizing is 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call()
    assert "\n" not in str(error.value)
