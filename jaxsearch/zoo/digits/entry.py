"""The digits as the command offers them."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Prompts
from jaxsearch.zoo import Model, ModelEntry
from jaxsearch.zoo.digits.load import WEIGHTS, classifier, decoder, denoiser, judge
from jaxsearch.zoo.digits.network import NO_LABEL
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

    def prompts(texts: Sequence[str]) -> Prompts:
        wrong = [text for text in texts if text not in _LABELS]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no digit: a prompt is a label from 0 to 9")
        labels = np.asarray([int(text) for text in texts], np.int32)
        # The n-th request for a label has the same noise whatever else is asked for.
        seen = [itertools.count() for _ in _LABELS]
        count = np.asarray([next(seen[label]) for label in labels])
        cond = labels if conditional else np.full_like(labels, NO_LABEL)
        ids = labels + 10 * count
        as_int = functools.partial(jnp.asarray, dtype=jnp.int32)
        return Prompts(as_int(ids), as_int(cond), {"label": as_int(labels)})

    return Model(denoiser(guidance=guidance), decoder(enlarge=enlarge), prompts)


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
