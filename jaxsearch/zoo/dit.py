"""DiT and SiT as the command offers them: pipelines of diffusers, and converted checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxsearch.core.types import PyTree
from jaxsearch.models.autoencoder_kl import (
    autoencoder_decoder,
    check_latents,
    load_autoencoder,
)
from jaxsearch.models.configs import read_json
from jaxsearch.models.converted import read_labels
from jaxsearch.models.dit import GUIDED_CHANNELS, dit_denoiser
from jaxsearch.models.dit_folder import (
    TransformerConfig,
    dit_config,
    load_converted,
    load_dit_folder,
    read_transformer_config,
)
from jaxsearch.models.folders import check_entries, part_files, read_config
from jaxsearch.models.sit import sit_denoiser
from jaxsearch.zoo.labels import class_prompts, split_numbers
from jaxsearch.zoo.model import Model, ModelEntry, files_in
from jaxsearch.zoo.scheduler import scheduler

_SCHEDULER = "scheduler/scheduler_config.json"


class _Source(NamedTuple):
    """What a folder says of itself before its weights are read."""

    config: TransformerConfig
    names: list[str]
    steps: Mapping[str, Any]  # what the scheduler of a pipeline visits
    weights: Callable[[str], PyTree]  # by their type
    files: tuple[str, ...]  # that it is read from, but for the autoencoder's


def _converted(folder: Path) -> _Source:
    config = read_transformer_config(folder / "config.json")
    names = read_labels(folder, config.num_classes)
    return _Source(
        config,
        names,
        {},
        lambda dtype: load_converted(folder, dtype=dtype)[1],
        ("config.json", "model.safetensors", "labels.txt"),
    )


def _pipeline(folder: Path) -> _Source:
    path = folder / "model_index.json"
    config = TransformerConfig(dit_config(read_config(folder / "transformer")), "dit")
    steps = _steps(folder / _SCHEDULER)
    names = read_json(path).get("id2label") or {}
    classes = [str(label) for label in range(config.num_classes)] if names else []
    for label in classes:
        if label not in names:
            raise ValueError(f"{path}: id2label has no name for the class {label}")
    return _Source(
        config,
        [str(names[label]) for label in classes],
        steps,
        lambda dtype: load_dit_folder(folder / "transformer", dtype=dtype)[1],
        ("model_index.json", _SCHEDULER, *part_files(folder, "transformer")),
    )


def _steps(path: Path) -> Mapping[str, Any]:
    """The steps of a pipeline's scheduler, whose process must be the one of `dit_denoiser`.

    Raises:
        ValueError: naming the entry that is not.
    """
    entries = read_json(path)
    plan = scheduler(entries)
    fixed = {
        "num_train_timesteps": (1000,),
        "beta_start": (0.0001,),
        "beta_end": (0.02,),
        "beta_schedule": ("linear",),
        "prediction_type": ("epsilon",),
        "trained_betas": (None,),
    }
    check_entries(entries, needed=(), optional=set(entries) - set(fixed), fixed=fixed)
    return plan.schedule


def entry(folder: Path) -> ModelEntry:
    """What can be said of a folder before its weights are read.

    Raises:
        ValueError: if its config cannot be read, or asks for something that is not supported.
    """
    is_pipeline = (folder / "model_index.json").exists()
    config, names, steps, weights, files = (_pipeline if is_pipeline else _converted)(folder)
    check_latents(folder / "vae", config.network.in_channels)
    weights = functools.cache(weights)  # other guidance, same weights

    @functools.cache
    def load(
        *,
        guidance: float = 4.0,
        guided_channels: int | None = GUIDED_CHANNELS,
        dtype: Literal["float32", "bfloat16"] = "float32",
        remat: bool = False,
    ) -> Model:
        """A diffusion transformer over latents: DiT (Peebles & Xie 2023) or SiT (Ma et al. 2024).

        Args:
            guidance: scale of classifier-free guidance; 1 is none, others double the network
                passes.
            guided_channels: how many of the latent's channels are guided; null: all of them.
            dtype: of weights and computation; samples are float32.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.
        """
        settings: dict[str, Any] = {
            "guidance": guidance,
            "guided_channels": guided_channels,
            "dtype": dtype,
            "remat": remat,
        }
        if config.kind == "dit":
            denoiser = dit_denoiser(config.network, weights(dtype), **settings)
        else:
            denoiser = sit_denoiser(
                config.network,
                weights(dtype),
                prediction=config.prediction,
                path=config.path,
                **settings,
            )
        autoencoder, params = load_autoencoder(folder / "vae", dtype=dtype)
        decoder = autoencoder_decoder(autoencoder, params, dtype=dtype, remat=remat)
        return Model(denoiser, decoder, *class_prompts(config.num_classes, names))

    schedule: dict[str, Any] = {"name": "trained_steps", "num_steps": 50, **steps}
    if config.kind == "sit":
        # From a score or a noise nothing follows for the sample where there is nothing but noise.
        even = config.prediction == "velocity"
        schedule = {"name": "shifted" if even else "karras", "num_steps": 50}
    return ModelEntry(
        load=load,
        verifiers={},
        defaults={
            "solver": {"name": "first_order"},
            "schedule": schedule,
            "guide": ["brightness"],
            "report": ["brightness"],
            "prompts": [str(label) for label in range(min(config.num_classes, 4))],
            "num_prompts": 4,
        },
        split=split_numbers,
        files=files_in(folder, *files, *part_files(folder, "vae")),
    )
