"""Stable Diffusion 1 and 2 as the command offers them: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxsearch.core.checks import check_range
from jaxsearch.core.types import Array
from jaxsearch.models.clip_text import clip_text_config, clip_text_network, load_clip_text
from jaxsearch.models.clip_tokenizer import FILES, load_clip_tokenizer
from jaxsearch.models.folders import part_files
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.unet2d_condition import UNetConfig, load_unet, unet_config, unet_network
from jaxsearch.zoo.model import Model, ModelEntry, files_in
from jaxsearch.zoo.pipeline import (
    check_latents_fit,
    check_negative_prompt,
    check_parts,
    check_texts_fit,
    config_of,
    defaults,
    guided,
    of_texts,
    pixels_of_latent,
    sides,
)
from jaxsearch.zoo.scheduler import PREDICTIONS, Scheduler, scheduler
from jaxsearch.zoo.texts import encoder_of_folder

_PARTS = {
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}


def entry(folder: Path) -> ModelEntry:
    """What can be said of a pipeline's folder before its weights are read.

    Raises:
        ValueError: if a config cannot be read, or says what is not supported.
    """
    check_parts(folder / "model_index.json", _PARTS)
    config = config_of(folder / "unet", unet_config)
    plan = config_of(folder / "scheduler", _corrected, "scheduler_config.json")
    scale = pixels_of_latent(folder)
    _check_fit(folder, config)

    @functools.cache
    def load(
        *,
        guidance: float = 7.5,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        remat: bool = False,
    ) -> Model:
        """Stable Diffusion 1 or 2, or another pipeline of their form.

        A prompt is a text, of which CLIP reads the first 75 tokens.

        Args:
            guidance: scale of classifier-free guidance; 1 and less is none, more doubles the
                network passes.
            negative_prompt: what guidance leads away from, for all prompts.
            height: of pictures in pixels, a multiple of 8. null: as it was trained.
            width: of pictures in pixels, a multiple of 8. null: as it was trained.
            dtype: of weights and computation; samples, and the encoder of texts, are float32.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.

        Raises:
            ValueError: if a setting is out of its range, or the folder's files do not fit.
        """
        latent = sides({"height": height, "width": width}, config.sample_size, scale)
        check_range("guidance scale", guidance)
        check_negative_prompt(negative_prompt, guidance > 1, guidance)
        encode = _encoder(folder)
        _, params = load_unet(folder / "unet", dtype=dtype)
        denoiser = PREDICTIONS[plan.prediction](
            unet_network(config, dtype=dtype, remat=remat),
            params,
            shape=(*latent, config.in_channels),
            process=plan.process,
        )
        denoiser = guided(denoiser, encode, guidance=guidance, negative_prompt=negative_prompt)
        return of_texts(folder, denoiser, encode, dtype=dtype, remat=remat)

    return ModelEntry(
        load=load,
        verifiers={},
        # Of 512 x 512 pixels, also where the network makes larger ones.
        defaults=defaults({"name": "trained_steps", "num_steps": 50, **plan.schedule}, 512**2),
        files=files_in(
            folder,
            "model_index.json",
            "scheduler/scheduler_config.json",
            *part_files(folder, "unet"),
            *part_files(folder, "vae"),
            *part_files(folder, "text_encoder", OF_TRANSFORMERS),
            *(f"tokenizer/{name}" for name in FILES),
        ),
    )


def _corrected(entries: Mapping[str, Any]) -> Scheduler:
    """The scheduler as the pipeline runs it: it sets every other offset to 1."""
    return scheduler({**entries, "steps_offset": 1})


def _check_fit(folder: Path, config: UNetConfig) -> None:
    """Refuses networks that do not go together."""
    features = config_of(folder / "text_encoder", clip_text_config).hidden_size
    check_texts_fit(folder, features, config, "cross_attention_dim", "unet")
    if config.addition_time_embed_dim:
        raise ValueError(
            f"{folder}: the unet is told sizes (addition_embed_type is 'text_time'), which only a "
            "StableDiffusionXLPipeline has for it"
        )
    check_latents_fit(folder, config.in_channels, "unet")


def _encoder(folder: Path) -> Callable[[Sequence[str]], Array]:
    """`texts [P] -> features [P, length, features]` float32."""
    config = config_of(folder / "text_encoder", clip_text_config)
    return encoder_of_folder(
        folder,
        "text_encoder",
        clip_text_network(config),
        lambda: load_clip_text(folder / "text_encoder")[1],
        load_clip_tokenizer(folder / "tokenizer", length=config.max_position_embeddings),
        vocab_size=config.vocab_size,
    )
