"""Real images that populations are compared with, by the names that the command knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.zoo.digits import load as digits_load
from jaxsearch.zoo.digits.data import splits
from jaxsearch.zoo.scenes.data import HELD_OUT, batch, pool

_SCENES = 4096
_POOL = 20_000


class Reference(NamedTuple):
    """Two populations of real images, [n,h,w,c] float32 in [0, 1]: what is the best to be had."""

    images: np.ndarray
    beside: np.ndarray


def digits() -> Reference:
    """The 360 held-out digits, and beside them the 719 that their judge has not learnt from.

    Raises:
        ValueError: if scikit-learn, which brings them, is missing.
    """
    try:
        parts = splits()
    except ImportError as error:
        raise ValueError(str(error)) from error
    decoder = digits_load.decoder()
    both = (parts.held_out.pixels, parts.classifier.pixels)
    return Reference(*(np.asarray(decoder(jnp.asarray(pixels))) for pixels in both))


def scenes() -> Reference:
    """Twice 4096 scenes, drawn apart from those that networks learnt from."""

    def drawn(seed: int) -> np.ndarray:
        return np.asarray(batch(jax.random.key(seed), pool(_POOL, seed=seed), _SCENES).images)

    return Reference(drawn(HELD_OUT), drawn(HELD_OUT + 1))


REFERENCES: dict[str, Callable[[], Reference]] = {"digits": digits, "scenes": scenes}
