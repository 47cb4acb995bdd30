"""Places told by turning queries and keys: two that are asked meet at the angle between them.

Reference: Su, Lu, Pan, Murtadha, Wen, Liu, *RoFormer: enhanced transformer with rotary position
embedding*, 2021, section 3.2.2, https://arxiv.org/abs/2104.09864.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array

_LONGEST_PERIOD = 10000.0  # in places, over 2 pi


class Turns(NamedTuple):
    """By which angles each token is turned.

    Attributes:
        cos: [length, channels / 2] float32, one of each pair of channels.
        sin: as `cos`.
    """

    cos: Array
    sin: Array


def turns_of_grid(height: int, width: int, axes: Sequence[int], num_others: int) -> Turns:
    """Turns of a grid's tokens, row by row, and of others behind them, which are not turned.

    Args:
        height: rows of the grid.
        width: columns of it.
        axes: how many channels of a head tell of nothing here, of the row and of the column; even
            numbers.
        num_others: how many others there are.
    """
    still, rows, columns = axes
    parts = (
        np.zeros((1, 1, still // 2)),
        _angles(height, rows)[:, None, :],
        _angles(width, columns)[None, :, :],
    )

    def table(function: np.ufunc, of_others: float) -> Array:
        # In float64 where they are few, and spread over the grid in the program.
        spread = [
            jnp.broadcast_to(
                jnp.asarray(function(part), jnp.float32), (height, width, part.shape[-1])
            )
            for part in parts
        ]
        grid = jnp.concatenate(spread, axis=-1).reshape(height * width, -1)
        others = jnp.full((num_others, grid.shape[-1]), of_others, jnp.float32)
        return jnp.concatenate([grid, others])

    return Turns(table(np.cos, 1.0), table(np.sin, 0.0))


def _angles(places: int, channels: int) -> np.ndarray:
    """[places, channels / 2]: pair `i` of `d` channels turns by `10000^(-2i/d)` a place."""
    frequencies = _LONGEST_PERIOD ** -(np.arange(0, channels, 2) / channels)
    return np.arange(places)[:, None] * frequencies[None, :]


def turned(heads: Array, turns: Turns) -> Array:
    """Each pair of neighbouring channels turned by its token's angle (equation 34).

    Computed in float32.

    Args:
        heads: [n, length, heads, channels].
        turns: of these tokens.
    """
    pairs = heads.astype(jnp.float32).reshape(*heads.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    cos, sin = turns.cos[None, :, None, :], turns.sin[None, :, None, :]
    both = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return both.reshape(heads.shape).astype(heads.dtype)
