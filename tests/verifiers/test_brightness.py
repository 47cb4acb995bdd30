"""Brightness against pixels whose luma is known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.verifiers import brightness


@pytest.mark.parametrize(
    ("colour", "luma"),
    [((1, 0, 0), 0.2126), ((0, 1, 0), 0.7152), ((0, 0, 1), 0.0722), ((1, 1, 1), 1), ((0, 0, 0), 0)],
)
def test_luma_of_pure_colours(colour: tuple[int, ...], luma: float) -> None:
    image = jnp.broadcast_to(jnp.asarray(colour, jnp.float32), (2, 5, 7, 3))
    np.testing.assert_allclose(brightness()(image, {}), [luma, luma], atol=1e-6)


def test_mean_over_pixels_per_image() -> None:
    images = np.random.default_rng(0).uniform(size=(4, 6, 3, 3)).astype(np.float32)
    expected = (images * [0.2126, 0.7152, 0.0722]).sum(-1).mean((1, 2))
    np.testing.assert_allclose(brightness()(jnp.asarray(images), {}), expected, rtol=1e-5)


def test_grey_is_the_mean_and_equals_its_rgb_copy() -> None:
    grey = np.random.default_rng(1).uniform(size=(3, 4, 4, 1)).astype(np.float32)
    score = brightness()(jnp.asarray(grey), {})
    np.testing.assert_allclose(score, grey.mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(score, brightness()(jnp.repeat(grey, 3, -1), {}), rtol=1e-5)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="4 channels"):
        brightness()(jnp.zeros((1, 2, 2, 4)), {})


def test_equal_objects_so_that_programs_are_reused() -> None:
    assert brightness() is brightness()
