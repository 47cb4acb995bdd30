"""EDM's networks as the command offers them: folders that `jaxsearch convert` wrote."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from jaxsearch.core.types import Array, Decoder, PyTree
from jaxsearch.models.converted import read_labels
from jaxsearch.models.edm_folder import load_folder, read_config
from jaxsearch.zoo.labels import ANY, class_prompts, split_numbers
from jaxsearch.zoo.model import Model, ModelEntry, files_in


@functools.cache
def decoder() -> Decoder:
    """Latents [n,h,w,c] in [-1,1] as images in [0,1]."""

    def apply(params: PyTree, latents: Array) -> Array:
        return jnp.clip((latents.astype(jnp.float32) + 1) / 2, 0.0, 1.0)

    return Decoder(apply=apply)


def entry(folder: Path) -> ModelEntry:
    """What can be said of a folder before its weights are read.

    Raises:
        ValueError: if its config cannot be read.
    """
    config = read_config(folder / "config.json")
    names = read_labels(folder, config.num_classes)

    @functools.cache
    def load(*, dtype: Literal["float32", "bfloat16"] = "float32", remat: bool = False) -> Model:
        """A network of Karras et al. 2022, or of one of their pickles, in pixels.

        Args:
            dtype: of weights and computation; samples are float32.
            remat: whether a gradient computes each block of the network again, which takes longer,
                instead of keeping what is inside it.
        """
        _, denoiser = load_folder(folder, dtype=dtype, remat=remat)
        return Model(denoiser, decoder(), *class_prompts(config.num_classes, names))

    schedule: dict[str, Any] = {"name": "karras", "num_steps": 18}
    if config.preconditioning.kind == "ve":
        schedule["sigma_min"] = 0.02  # below it was never trained
    classes = [str(label) for label in range(min(config.num_classes, 4))]
    return ModelEntry(
        load=load,
        verifiers={},
        defaults={
            "solver": {"name": "heun"},
            "schedule": schedule,
            "guide": ["brightness"],
            "report": ["brightness", "compressibility"],
            "prompts": classes or [ANY],
            "num_prompts": 4,
        },
        split=split_numbers,
        files=files_in(folder, "config.json", "model.safetensors", "labels.txt"),
    )
