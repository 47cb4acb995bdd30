"""Coloured shapes from captions: pictures of 48x48 pixels, verifiers to fool, an exact checker."""

from jaxsearch.zoo.scenes.captions import TASKS, prompt_set
from jaxsearch.zoo.scenes.check import exact
from jaxsearch.zoo.scenes.load import (
    alignment,
    attributes,
    decoder,
    denoiser,
    prompts,
    taste,
)

__all__ = [
    "TASKS",
    "alignment",
    "attributes",
    "decoder",
    "denoiser",
    "exact",
    "prompt_set",
    "prompts",
    "taste",
]
