"""Images as the levels of a picture's file, on the host."""

from __future__ import annotations

import numpy as np


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Float images in [0, 1] as uint8, rounded to the nearest level; NaN is black."""
    return np.floor(np.clip(np.nan_to_num(images), 0, 1) * 255 + 0.5).astype(np.uint8)
