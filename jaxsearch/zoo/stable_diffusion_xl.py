"""Stable Diffusion XL as the command offers it: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import MOST, check_count, check_range
from jaxsearch.models.clip_text_features import ARCHITECTURES, clip_text_features_config
from jaxsearch.models.clip_tokenizer import FILES
from jaxsearch.models.configs import read_json
from jaxsearch.models.folders import part_files, read_config
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.unet2d_condition import (
    SizedText,
    UNetConfig,
    load_unet,
    unet_config,
    unet_network,
)
from jaxsearch.zoo.clip_texts import CLIPS, clip_texts
from jaxsearch.zoo.model import Model, ModelEntry, files_in
from jaxsearch.zoo.pipeline import (
    check_latents_fit,
    check_negative_prompt,
    check_parts,
    check_texts_fit,
    config_of,
    defaults,
    of_texts,
    pixels_of_latent,
    sides,
)
from jaxsearch.zoo.scheduler import PREDICTIONS, scheduler

_PARTS = {
    **dict(zip(CLIPS, ARCHITECTURES, strict=True)),
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}


def entry(folder: Path) -> ModelEntry:
    """What can be said of a pipeline's folder before its weights are read.

    Raises:
        ValueError: if a config cannot be read, or says what is not supported.
    """
    index = folder / "model_index.json"
    check_parts(index, _PARTS)
    config = config_of(folder / "unet", unet_config)
    plan = config_of(folder / "scheduler", scheduler, "scheduler_config.json")
    scale = pixels_of_latent(folder)
    _check_fit(folder, config)
    zeros = read_json(index).get("force_zeros_for_empty_prompt", True)
    if not isinstance(zeros, bool):
        raise ValueError(
            f"{index}: force_zeros_for_empty_prompt is {zeros!r}: it must be true or false"
        )
    # Steps counted from the end are those of models distilled to few steps, such as Turbo.
    distilled = plan.schedule["spacing"] == "trailing"
    encoder = functools.cache(lambda: clip_texts(folder))
    weights = functools.cache(lambda dtype: load_unet(folder / "unet", dtype=dtype)[1])

    @functools.cache
    def made(
        guidance: float,
        negative_prompt: str | None,
        latent: tuple[int, ...],
        sizes: tuple[int, ...],
        dtype: str,
        remat: bool,
    ) -> Model:
        encode = encoder()

        def told(texts: Sequence[str]) -> SizedText:
            found = encode(texts)
            text = jnp.concatenate([part.tokens for part in found], axis=-1)
            pooled = found[-1].whole
            assert pooled is not None, "checked with the folder's configs"
            numbers = np.tile(np.asarray(sizes, np.float32), (len(texts), 1))
            return SizedText(text, pooled, jnp.asarray(numbers))

        denoiser = PREDICTIONS[plan.prediction](
            unet_network(config, dtype=dtype, remat=remat),
            weights(dtype),
            shape=(*latent, config.in_channels),
            process=plan.process,
        )
        if guidance > 1:
            null = jax.tree.map(lambda rows: rows[0], told([negative_prompt or ""]))
            if negative_prompt is None and zeros:
                null = SizedText(jnp.zeros_like(null.text), jnp.zeros_like(null.pooled), null.sizes)
            denoiser = classifier_free_guidance(denoiser, scale=guidance, null=null)
        # Half precision was too little for the published decoder, unless its config says otherwise.
        upcast = read_config(folder / "vae").get("force_upcast", True)
        of_decoder = "float32" if upcast else dtype
        return of_texts(folder, denoiser, told, dtype=of_decoder, remat=remat)

    def load(
        *,
        guidance: float = 1.0 if distilled else 5.0,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
        target_size: tuple[int, int] | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        remat: bool = False,
    ) -> Model:
        """Stable Diffusion XL or SDXL-Turbo, or another pipeline of their form.

        A prompt is a text, of which both encoders read the first 75 tokens.

        Args:
            guidance: scale of classifier-free guidance; 1 and less is none, more doubles the
                network passes.
            negative_prompt: what guidance leads away from, for all prompts. null: from no text at
                all, which is zeros where the folder says so.
            height: of pictures in pixels, a multiple of 8. null: as it was trained.
            width: of pictures in pixels, a multiple of 8. null: as it was trained.
            original_size: height and width that the network is told a picture had before it was
                resized; small ones look blurred. null: its own.
            crops_coords_top_left: what it is told was cut off above and on the left, in pixels.
            target_size: height and width that it is told a picture has. null: its own.
            dtype: of weights and computation; samples, the encoders of texts, and a decoder whose
                config does not forbid it by force_upcast, are float32.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.

        Raises:
            ValueError: if a setting is out of its range, or the folder's files do not fit.
        """
        latent = sides({"height": height, "width": width}, config.sample_size, scale)
        check_range("guidance scale", guidance)
        check_negative_prompt(negative_prompt, guidance > 1, guidance)
        own = tuple(side * scale for side in latent)
        told = (
            *_pair("original_size", original_size or own, 1),
            *_pair("crops_coords_top_left", crops_coords_top_left, 0),
            *_pair("target_size", target_size or own, 1),
        )
        return made(max(guidance, 1.0), negative_prompt, latent, told, dtype, remat)

    return ModelEntry(
        load=load,
        verifiers={},
        defaults=defaults(
            {"name": "trained_steps", "num_steps": 4 if distilled else 50, **plan.schedule},
            (config.sample_size * scale) ** 2,
        ),
        files=files_in(
            folder,
            "model_index.json",
            "scheduler/scheduler_config.json",
            *part_files(folder, "unet"),
            *part_files(folder, "vae"),
            *(name for part in CLIPS for name in part_files(folder, part, OF_TRANSFORMERS)),
            *(f"{part}/{name}" for part in CLIPS.values() for name in FILES),
        ),
    )


def _pair(name: str, values: Sequence[int], low: int) -> tuple[int, ...]:
    """Two numbers of pixels.

    Raises:
        ValueError: if it is something else.
    """
    if len(values) != 2:
        raise ValueError(f"{name} is {values}: give two numbers, of the height and of the width")
    for value in values:
        check_count(f"{name}'s number", value, low, MOST)
    return tuple(values)


def _check_fit(folder: Path, config: UNetConfig) -> None:
    """Refuses networks that do not go together."""
    encoders = [config_of(folder / part, clip_text_features_config) for part in CLIPS]
    features = sum(encoder.text.hidden_size for encoder in encoders)
    check_texts_fit(folder, features, config, "cross_attention_dim", "unet")
    if not config.addition_time_embed_dim:
        raise ValueError(
            f"{folder}: the unet is told a text alone: its addition_embed_type must be 'text_time'"
        )
    if encoders[1].projection_dim != config.pooled_features:
        raise ValueError(
            f"{folder}: the projection_dim of text_encoder_2 is {encoders[1].projection_dim}, but "
            f"the unet's projection_class_embeddings_input_dim leaves {config.pooled_features}"
        )
    check_latents_fit(folder, config.in_channels, "unet")
