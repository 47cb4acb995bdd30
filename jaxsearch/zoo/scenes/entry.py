"""The scenes as the command offers them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxsearch.core.types import Prompts
from jaxsearch.zoo.model import Model, ModelEntry, files_in
from jaxsearch.zoo.scenes.captions import prompt_set, read
from jaxsearch.zoo.scenes.check import exact
from jaxsearch.zoo.scenes.load import (
    NAMES,
    WEIGHTS,
    Size,
    alignment,
    attributes,
    decoder,
    denoiser,
    prompts,
    taste,
)
from jaxsearch.zoo.texts import text_ids


def load(*, size: Size = "large", guidance: float = 2.0) -> Model:
    """Coloured shapes from captions, 48x48 pixels, in the package: truth can be checked exactly.

    A prompt is a caption such as "a red circle to the left of a blue star", "three green rings" or
    "a picture of a purple square beside an orange triangle".

    Args:
        size: of the base model: large has 354 000 parameters, small 90 000.
        guidance: scale of classifier-free guidance; 1 is none and halves the network passes.

    Raises:
        ValueError: if a setting is out of its range.
    """

    def ids(texts: Sequence[str]) -> np.ndarray:
        for text in texts:
            read(text)
        return text_ids(texts)

    def told(texts: Sequence[str]) -> Prompts:
        return prompts(texts, size=size)

    return Model(denoiser(size=size, guidance=guidance), decoder(), told, ids)


ENTRY = ModelEntry(
    load=load,
    verifiers={
        "taste": taste,
        "alignment": alignment,
        "attributes": attributes,
        "exact": exact,
    },
    defaults={
        "solver": {"name": "first_order", "eta": 1.0},
        "schedule": {"name": "shifted", "num_steps": 20},
        "guide": ["alignment"],
        "report": ["alignment", "exact", "attributes", "taste"],
        "prompts": prompt_set(16),
    },
    files=files_in(WEIGHTS, *(f"{name}.safetensors" for name in NAMES)),
)
