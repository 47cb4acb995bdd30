"""The file length counted by JAX is the one Pillow writes, and the score is made of it."""

from __future__ import annotations

import io
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxsearch.verifiers.jpeg import compressibility, jpeg_bytes, jpeg_bytes_host, to_uint8

QUALITIES = (1, 10, 50, 75, 80, 95, 100)
# Every parity of "multiple of 8" and "multiple of 16", with and without dummy blocks, for both.
SIZES = ((1, 1), (1, 17), (7, 9), (8, 8), (9, 24), (15, 16), (16, 40), (17, 33),
         (25, 8), (31, 64), (32, 32), (40, 23), (63, 5), (64, 64))  # fmt: skip


def assorted_images(seed: int, num_images: int, h: int, w: int, c: int) -> np.ndarray:
    """uint8 [n,h,w,c] of eight kinds in turn, so that every branch of the encoder is met."""
    rng = np.random.default_rng(seed)
    shape, (row, column) = (h, w, c), np.mgrid[:h, :w][..., None]
    digits = load_digits().images

    def digit() -> np.ndarray:
        image = digits[rng.integers(len(digits))] * (255 / 16)
        return np.kron(image, np.ones((-(-h // 8), -(-w // 8))))[:h, :w, None]

    kinds = (
        lambda: rng.integers(0, 256, shape),  # noise
        lambda: 128 + rng.normal(0, rng.uniform(1, 40), shape),  # soft noise
        lambda: rng.uniform(0, 255, c) + rng.normal(0, 4, c) * row + rng.normal(0, 4, c) * column,
        lambda: 255 * (rng.random(shape) < rng.random()),  # saturated
        lambda: rng.integers(0, 256, c) + 0 * row,  # flat
        lambda: np.where(rng.random(shape) < 0.03, 255, rng.integers(0, 256)),  # sparse
        lambda: 127 + 127 * np.sin(rng.uniform(0, 3) * row + rng.uniform(0, 3) * column),
        digit,
    )
    images = [np.broadcast_to(kinds[i % len(kinds)](), shape) for i in range(num_images)]
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("index", range(len(SIZES)))
def test_equals_pillow(index: int, channels: int) -> None:
    quality = QUALITIES[(index + channels) % len(QUALITIES)]
    images = assorted_images(index, 240, *SIZES[index], channels)
    np.testing.assert_array_equal(jpeg_bytes(images, quality), jpeg_bytes_host(images, quality))


@pytest.mark.parametrize("quality", [1, 30, 80, 100])
def test_sparse_blocks_equal_pillow(quality: int) -> None:
    """One 8x8 block each: runs of 16 and more zeros, and bytes 0xFF that end in an EOB."""
    rng = np.random.default_rng(quality)
    position = rng.integers(0, 8, (6000, 2, 3))
    wave = [
        np.cos((np.arange(8) + 0.5) * k[..., None] * np.pi / 8) for k in np.moveaxis(position, 1, 0)
    ]
    height = rng.normal(0, 60, (6000, 3))
    block = 128 + np.einsum("nk,nki,nkj->nij", height, *wave)
    images = np.clip(block, 0, 255).astype(np.uint8)[..., None]
    np.testing.assert_array_equal(jpeg_bytes(images, quality), jpeg_bytes_host(images, quality))


def test_host_length_is_that_of_the_file_with_stuffed_bytes() -> None:
    image = assorted_images(0, 1, 64, 64, 3)
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=100)
    assert file.getvalue().count(b"\xff\x00") > 20
    assert jpeg_bytes_host(image, 100).tolist() == [len(file.getvalue())]


def test_batch_dimensions_and_vmap() -> None:
    images = assorted_images(1, 12, 17, 20, 3).reshape(3, 4, 17, 20, 3)
    expected = jpeg_bytes_host(images, 80)
    assert expected.shape == (3, 4)
    np.testing.assert_array_equal(jpeg_bytes(images, 80), expected)
    lengths = jax.jit(jax.vmap(partial(jpeg_bytes, quality=80)))(images)
    assert lengths.dtype == jnp.int32
    np.testing.assert_array_equal(lengths, expected)


def test_to_uint8_rounds_to_the_nearest_level() -> None:
    images = jnp.array([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 127.49 / 255, 127.51 / 255, 1.0, 2.0])
    assert to_uint8(images).tolist() == [0, 0, 0, 1, 127, 128, 255, 255]


@pytest.mark.parametrize("path", ["device", "host"])
def test_score_is_one_minus_the_share_of_bytes(path: str) -> None:
    images = assorted_images(2, 8, 32, 24, 3)
    verifier = compressibility(max_bytes=1000, quality=75, path=path)
    scores = jax.jit(verifier)(jnp.asarray(images, jnp.float32) / 255, {})
    assert scores.dtype == jnp.float32
    expected = 1 - np.clip(jpeg_bytes_host(images, 75) / 1000, 0, 1)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores.min() == 0  # noise is longer than 1000 bytes
    assert 0.3 < scores.max() < 1  # a flat image is little more than its header


def test_paths_agree_under_vmap() -> None:
    images = jax.random.uniform(jax.random.key(0), (2, 3, 9, 16, 1))
    scores = [
        jax.jit(jax.vmap(partial(compressibility(path=path), context={})))(images)
        for path in ("device", "host")
    ]
    assert scores[0].shape == (2, 3)
    np.testing.assert_array_equal(*scores)


def test_image_that_is_not_finite_scores_nan() -> None:
    images = jnp.full((4, 8, 8, 1), 0.5).at[1, 0, 0].set(jnp.nan).at[3, 7, 7].set(jnp.inf)
    scores = compressibility()(images, {})
    assert jnp.isfinite(scores).tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(compressibility, path="gpu"), "path='gpu' is unknown: pass 'device' or 'host'"),
        (partial(compressibility, max_bytes=0), "max_bytes=0 scores nothing: pass a positive"),
        (partial(compressibility, quality=0), "quality=0 is no JPEG quality: pass an integer"),
        (partial(jpeg_bytes, np.zeros((1, 8, 8, 1), np.uint8), 101), "quality=101 is no JPEG"),
        (partial(jpeg_bytes, np.zeros((1, 8, 8, 4), np.uint8)), "c = 1 (grey) or 3 (RGB)"),
        (partial(jpeg_bytes, np.zeros((8, 8, 3), np.uint8)), "shape (8, 8, 3): pass [n,h,w,c]"),
        (partial(jpeg_bytes, np.zeros((1, 0, 8, 1), np.uint8)), "shape (1, 0, 8, 1)"),
        (partial(jpeg_bytes_host, np.zeros((1, 8, 8, 1), np.float32)), "float32: pass uint8"),
    ],
)
def test_bad_arguments(call: partial, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call()
    assert "\n" not in str(error.value)
