"""The digits as the command offers them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax.numpy as jnp

from jaxsearch.core.types import Prompts
from jaxsearch.zoo import Model, ModelEntry
from jaxsearch.zoo.digits.load import WEIGHTS, classifier, decoder, denoiser, judge
from jaxsearch.zoo.digits.network import NO_LABEL
from jaxsearch.zoo.labels import class_prompts
from jaxsearch.zoo.model import files_in

_LABELS = [str(digit) for digit in range(10)]
_VERIFIERS = {"classifier": classifier, "judge": judge}


def load(*, conditional: bool = False, guidance: float = 1.0, enlarge: int = 4) -> Model:
    """Handwritten digits of 8x8 pixels, in the package: searched in seconds on a laptop.

    A prompt is a label, 0 to 9.

    Args:
        conditional: whether the denoiser is told the label. If not, it draws any digit, and the
            search alone has to find the right one.
        guidance: scale of classifier-free guidance; 1 is none, others double the network passes.
        enlarge: how many times as wide and high pictures are as the samples, pixels repeated.

    Raises:
        ValueError: if a setting is out of its range, or guidance is asked for without the label.
    """
    if guidance != 1 and not conditional:
        raise ValueError(
            f"guidance is {guidance}, but the denoiser is not told the label: "
            "set conditional to true"
        )
    read, ids = class_prompts(len(_LABELS))

    def prompts(texts: Sequence[str]) -> Prompts:
        asked = read(texts)
        return asked if conditional else asked._replace(cond=jnp.full_like(asked.cond, NO_LABEL))

    return Model(denoiser(guidance=guidance), decoder(enlarge=enlarge), prompts, ids)


ENTRY = ModelEntry(
    load=load,
    verifiers=_VERIFIERS,
    defaults={
        "solver": {"name": "heun"},
        "schedule": {"name": "karras", "num_steps": 18},
        "guide": ["classifier"],
        "report": ["classifier", "judge", "brightness", "compressibility"],
        "verifiers": {"compressibility": {"max_bytes": 1000}},  # of 32 x 32 grey pixels
        "prompts": _LABELS,
        "num_prompts": 36,
    },
    files=files_in(WEIGHTS, *(f"{name}.safetensors" for name in ("denoiser", *_VERIFIERS))),
    split=lambda text: [part for part in re.split(r"[\s,]+", text) if part],
)
