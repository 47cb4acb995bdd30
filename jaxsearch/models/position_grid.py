"""Position embeddings of a square grid of patches, resized to another grid.

The resize is linear and its weights depend on the sizes alone, so it is a matrix for each side, in
float64, applied once where weights are loaded.
"""

from __future__ import annotations

import math

import numpy as np

_SHARPNESS = -0.75  # `a` of Keys 1981, equation 4, as PyTorch has it without antialiasing ...
_SHARPNESS_OF_PICTURES = -0.5  # ... and with it, as Pillow has it


def resize_places(
    places: np.ndarray, grid: int, *, offset: float | None = None, antialias: bool = False
) -> np.ndarray:
    """Position embeddings for another number of patches; that of the class token is left as it is.

    Args:
        places: [1, 1 + side*side, features], class first, then rows of patches.
        grid: the side of the grid that is wanted.
        offset: DINOv2's own code asks for a grid of `grid + 0.1` and takes what comes out, which
            places the samples `side / (grid + 0.1)` apart; None: `side / grid`, as `transformers`
            has it.
        antialias: whether each sample covers all that lies between it and its neighbours.

    Returns:
        [1, 1 + grid*grid, features] float32; unchanged where the grid is.

    Raises:
        ValueError: if the patches make no square.
    """
    side = math.isqrt(places.shape[1] - 1)
    if side * side != places.shape[1] - 1:
        raise ValueError(f"{places.shape[1] - 1} position embeddings of patches make no square")
    if side == grid:
        return np.asarray(places, np.float32)
    step = side / (grid if offset is None else grid + offset)
    matrix = antialiased_cubic(side, grid, step) if antialias else cubic(side, grid, step)
    patches = np.asarray(places[0, 1:], np.float64).reshape(side, side, -1)
    resized = np.einsum("ij,kl,jlc->ikc", matrix, matrix, patches, optimize=True)
    resized = resized.reshape(1, grid * grid, -1).astype(np.float32)
    return np.concatenate([np.asarray(places[:, :1], np.float32), resized], axis=1)


def cubic(side: int, grid: int, step: float) -> np.ndarray:
    """[grid, side] float64: cubic convolution of four points (Keys 1981), `step` points apart.

    Beyond the border stand the outermost points.
    """
    matrix = np.zeros((grid, side))
    for row in range(grid):
        centre = (row + 0.5) * step - 0.5
        first = math.floor(centre) - 1
        for point in range(first, first + 4):
            weight = _keys(np.asarray(point - centre), _SHARPNESS)
            matrix[row, min(max(point, 0), side - 1)] += weight
    return matrix


def antialiased_cubic(side: int, grid: int, step: float) -> np.ndarray:
    """[grid, side] float64: the same kernel, as wide as a sample where samples are far apart.

    Points beyond the border do not count.
    """
    width = max(step, 1.0)
    centres = (np.arange(grid) + 0.5) * step
    distance = (np.arange(side)[None, :] + 0.5 - centres[:, None]) / width
    weights = _keys(distance, _SHARPNESS_OF_PICTURES)
    return weights / weights.sum(axis=1, keepdims=True)


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """The kernel of cubic convolution, Keys 1981, equation 4."""
    x = np.abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))
