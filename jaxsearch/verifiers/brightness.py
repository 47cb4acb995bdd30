"""Brightness: the mean luma of an image."""

from __future__ import annotations

import jax.numpy as jnp

from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.verifiers.facts import Facts, facts

# ITU-R BT.709, item 3.2: E'_Y = 0.2126 E'_R + 0.7152 E'_G + 0.0722 E'_B.
_LUMA = (0.2126, 0.7152, 0.0722)


def _luma(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
    del params, context
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"images have {channels} channels: brightness needs 1 (grey) or 3 (RGB)")
    mean = jnp.mean(images, axis=(1, 2))
    # A sum and no matrix product, which accelerators round to fewer digits.
    return (
        mean[:, 0] if channels == 1 else jnp.sum(mean * jnp.asarray([_LUMA], mean.dtype), axis=-1)
    )


_BRIGHTNESS = Verifier(name="brightness", apply=_luma)


@facts(Facts((0, 1), "yes"))
def brightness() -> Verifier:
    """Rewards bright images: mean Rec. 709 luma, 0 (black) to 1 (white); of grey images the mean.

    `0.2126 R + 0.7152 G + 0.0722 B`, averaged over the pixels.

    Reference:
        Ramesh and Mardani, Test-Time Scaling of Diffusion Models via Noise Trajectory Search, 2025.
    """
    return _BRIGHTNESS
