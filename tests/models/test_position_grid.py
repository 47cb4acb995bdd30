"""Resized position embeddings against PyTorch's own resize."""

from __future__ import annotations

import numpy as np
import pytest

from jaxsearch.models.position_grid import resize_places

torch = pytest.importorskip("torch")


def places(side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 1 + side**2, 5)).astype(np.float32)


def theirs(x: np.ndarray, side: int, **settings) -> np.ndarray:
    """In float64: in float32 its coordinates are rounded, which moves it by 1e-5."""
    grid = torch.from_numpy(x[:, 1:].astype(np.float64).reshape(1, side, side, -1))
    grid = grid.permute(0, 3, 1, 2)
    found = torch.nn.functional.interpolate(grid, mode="bicubic", **settings)
    return found.permute(0, 2, 3, 1).reshape(1, -1, x.shape[-1]).numpy()


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (37, 24), (37, 36), (16, 37), (5, 1), (1, 3)])
def test_as_transformers_has_it(side, grid):
    """`size` is said. Kills: another kernel; centres half a point off; a border of zeros."""
    x = places(side)
    found = resize_places(x, grid)
    np.testing.assert_allclose(found[:, 1:], theirs(x, side, size=(grid, grid)), atol=1e-6)
    np.testing.assert_array_equal(found[:, :1], x[:, :1])
    assert found.dtype == np.float32


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (37, 32), (37, 38), (16, 37)])
def test_as_dinov2_has_it(side, grid):
    """A scale is said, of a grid a tenth larger. Kills: the tenth left out, which is a difference
    of more than the tolerance.
    """
    x = places(side)
    wanted = theirs(x, side, scale_factor=((grid + 0.1) / side,) * 2)
    found = resize_places(x, grid, offset=0.1)
    np.testing.assert_allclose(found[:, 1:], wanted, atol=1e-6)
    assert np.max(np.abs(found - resize_places(x, grid))) > 0.01


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (37, 36), (16, 37), (5, 1)])
def test_with_antialiasing(side, grid):
    """As networks with registers have it. Kills: the sharper kernel; no wider one where samples are
    far apart; a border of repeated points.
    """
    x = places(side)
    wanted = theirs(x, side, size=(grid, grid), antialias=True)
    np.testing.assert_allclose(resize_places(x, grid, antialias=True)[:, 1:], wanted, atol=1e-6)


def test_the_same_grid_is_left_as_it_is():
    x = places(4)
    for settings in ({}, {"offset": 0.1}, {"antialias": True}):
        np.testing.assert_array_equal(resize_places(x, 4, **settings), x)


def test_rows_and_columns_are_not_exchanged():
    x = np.zeros((1, 10, 1), np.float32)
    x[0, 1:4] = 1.0  # the first row
    found = resize_places(x, 6)[0, 1:, 0].reshape(6, 6)
    assert np.ptp(found, axis=1).max() < 1e-6
    assert found[0, 0] > 0.9 > 0.1 > abs(found[5, 5])


def test_no_square_is_refused():
    with pytest.raises(ValueError, match="7 position embeddings of patches make no square"):
        resize_places(np.zeros((1, 8, 2), np.float32), 2)
