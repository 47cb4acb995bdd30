"""The digits and their splits. Needs scikit-learn, which brings the images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SPLIT_SEED = 20220600


class Digits(NamedTuple):
    """Some digits."""

    pixels: np.ndarray  # [n, 8, 8, 1] float32 in [-1, 1]
    labels: np.ndarray  # [n] int32


class Splits(NamedTuple):
    """Who sees which digits. The denoiser learns from both halves."""

    classifier: Digits  # 719
    judge: Digits  # 718
    held_out: Digits  # 360, seen by nobody


def splits() -> Splits:
    """Scikit-learn's 1797 digits in three parts, the same at every call.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn: pip install 'jaxsearch[train]'"
        ) from error
    bunch = load_digits()
    pixels = np.asarray(bunch.images, np.float32)[..., None] / 8.0 - 1.0
    labels = np.asarray(bunch.target, np.int32)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    num_held_out = len(labels) // 5 + 1
    held_out, rest = order[:num_held_out], order[num_held_out:]
    half = (len(rest) + 1) // 2
    return Splits(
        *(Digits(pixels[part], labels[part]) for part in (rest[:half], rest[half:], held_out))
    )
