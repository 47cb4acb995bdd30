"""Handwritten digits of 8x8 pixels: a denoiser that samples in milliseconds, guide and judge."""

from jaxsearch.zoo.digits.load import classifier, decoder, denoiser, judge
from jaxsearch.zoo.digits.network import NO_LABEL

__all__ = ["NO_LABEL", "classifier", "decoder", "denoiser", "judge"]
