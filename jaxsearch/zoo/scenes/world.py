"""What a scene is, and how it is drawn: coloured shapes on a grid of cells.

A scene is three arrays of whole numbers: the tint of the ground, and for each of the 16 cells what
stands in it and where. A kind is a shape in a colour, `shape*6 + colour`, or `EMPTY`; an offset
says by how many pixels it is off the middle of its cell. All pictures there are can therefore be
listed cell by cell, which is what makes an exact check possible (`check.py`).
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array

GRID = 4
"""Cells in a row, and rows."""
CELL = 12
"""Side of a cell in pixels."""
SIDE = GRID * CELL
NUM_CELLS = GRID * GRID

SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
NUM_KINDS = len(SHAPES) * len(COLOURS)
EMPTY = NUM_KINDS
"""The kind of a cell in which nothing stands."""

OFFSETS = np.array(list(itertools.product((-1, 0, 1), repeat=2)), np.int32)
"""[9, 2] by how many pixels things are off the middle of their cell: down, right."""

_RGB = np.array(
    [[214, 40, 40], [245, 133, 31], [247, 201, 30], [46, 158, 79], [41, 98, 217], [134, 60, 182]],
    np.float32,
)
_TINTS = np.array([[250, 246, 236], [228, 240, 250], [236, 246, 228]], np.float32)
NUM_TINTS = len(_TINTS)
_RADIUS = 4.6  # of all shapes, in pixels; with an offset of 1 it stays within the cell
_RIM = 0.72  # how bright the edge of a shape is beside its middle
_FINE = 8  # points a side by which a pixel's share of a shape is counted


class Scene(NamedTuple):
    """Scenes [...]: what is to be seen."""

    tint: Array  # [...] int32, which ground
    kind: Array  # [..., 16] int32, rows first; `EMPTY` where nothing stands
    offset: Array  # [..., 16] int32, into `OFFSETS`


def kind_of(shape: int, colour: int) -> int:
    """The kind of a shape in a colour."""
    return shape * len(COLOURS) + colour


def _depth(shape: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """How far inside a shape of radius 1 points are; negative outside."""
    radius = np.hypot(y, x)
    if shape == "circle":
        return 1 - radius
    if shape == "square":
        return 0.84 - np.maximum(np.abs(y), np.abs(x))
    if shape == "ring":
        return 0.27 - np.abs(radius - 0.73)
    if shape == "triangle":
        sides = [(0.0, 1.0)] + [(s * np.sqrt(3) / 2, -0.5) for s in (-1, 1)]
        return 0.56 - np.max([a * x + b * (y - 0.2) for a, b in sides], axis=0)
    # A star of five: within a fifth of the circle, the side of a beam from its tip to the notch.
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    across, along = radius * np.sin(angle), radius * np.cos(angle)
    notch = 0.5 * np.array([np.sin(fifth / 2), np.cos(fifth / 2)])
    side = np.array([-(notch[1] - 1.06), notch[0]])  # its normal, outwards
    side /= np.hypot(*side)
    return 1.06 * side[1] - (across * side[0] + along * side[1])


@functools.cache
def cells() -> np.ndarray:
    """Every picture that a cell can be: [3 tints, 31 kinds, 9 offsets, 12, 12, 3] in [0, 1]."""
    step = np.arange(CELL * _FINE) / _FINE + 0.5 / _FINE - CELL / 2
    ground = _TINTS[:, None, None, None] / 255
    found = np.broadcast_to(
        ground[:, None], (NUM_TINTS, NUM_KINDS + 1, len(OFFSETS), CELL, CELL, 3)
    ).copy()
    for shape, (down, right) in itertools.product(range(len(SHAPES)), OFFSETS):
        y, x = np.meshgrid(step - down, step - right, indexing="ij")
        depth = _depth(SHAPES[shape], y / _RADIUS, x / _RADIUS) * _RADIUS
        fine = (CELL, _FINE, CELL, _FINE)
        inside = (depth > 0).reshape(fine).mean((1, 3))[..., None]
        middle = (depth > 0.9).reshape(fine).mean((1, 3))[..., None]
        place = int(np.flatnonzero(np.all([down, right] == OFFSETS, axis=1))[0])
        for colour, rgb in enumerate(_RGB / 255):
            painted = inside * _RIM * rgb + middle * (1 - _RIM) * rgb
            found[:, kind_of(shape, colour), place] = painted + (1 - inside) * ground[:, 0]
    return found.astype(np.float32)


def draw(scene: Scene) -> Array:
    """Pictures [..., 48, 48, 3] float32 in [0, 1] of scenes [...]."""
    table = jnp.asarray(cells())
    found = table[scene.tint[..., None], scene.kind, scene.offset]  # [..., 16, 12, 12, 3]
    lead = found.shape[:-4]
    tiles = found.reshape((*lead, GRID, GRID, CELL, CELL, 3))
    return jnp.moveaxis(tiles, -3, -4).reshape((*lead, SIDE, SIDE, 3))


def check_images(images: Array) -> None:
    """Refuses what is no images [n, 48, 48, 3].

    Raises:
        ValueError: if they have other sides or channels.
    """
    if images.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(
            f"scenes are {SIDE}x{SIDE} pixels in colour, not {'x'.join(map(str, images.shape[1:]))}"
        )


def tiles_of(images: Array) -> Array:
    """Images [n, 48, 48, 3] -> their cells [n, 16, 12, 12, 3], rows first.

    Raises:
        ValueError: if they have other sides or channels.
    """
    check_images(images)
    grid = images.reshape((len(images), GRID, CELL, GRID, CELL, 3))
    return jnp.swapaxes(grid, 2, 3).reshape((len(images), NUM_CELLS, CELL, CELL, 3))
