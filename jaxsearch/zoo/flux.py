"""FLUX.1-dev and FLUX.1-schnell as the command offers them: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.models.clip_text_whole import (
    clip_text_whole_config,
    clip_text_whole_network,
    load_clip_text_whole,
)
from jaxsearch.models.clip_tokenizer import FILES, load_clip_tokenizer
from jaxsearch.models.flux import (
    PATCH,
    FluxConfig,
    GuidedText,
    flux_config,
    flux_network,
    load_flux,
)
from jaxsearch.models.folders import part_files
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.rectified_flow import rectified_flow_denoiser
from jaxsearch.models.t5_encoder import t5_encoder_config
from jaxsearch.models.t5_tokenizer import FILES as T5_FILES
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
from jaxsearch.zoo.scheduler import sized_flow_scheduler
from jaxsearch.zoo.t5_texts import t5_texts
from jaxsearch.zoo.texts import encoder_of_folder

_CLIP, _T5 = "text_encoder", "text_encoder_2"
_PARTS = {
    _CLIP: "CLIPTextModel",
    _T5: "T5EncoderModel",
    "transformer": "FluxTransformer2DModel",
    "vae": "AutoencoderKL",
}
_SIDE = 64  # tokens along a published picture's side; no config says it
_MOST_TOKENS = 512


def entry(folder: Path) -> ModelEntry:
    """What can be said of a pipeline's folder before its weights are read.

    Raises:
        ValueError: if a config cannot be read, or says what is not supported.
    """
    check_parts(folder / "model_index.json", _PARTS)
    config = config_of(folder / "transformer", flux_config)
    shift = config_of(folder / "scheduler", sized_flow_scheduler, "scheduler_config.json")
    scale = PATCH * pixels_of_latent(folder)
    _check_fit(folder, config)
    # One that follows a scale takes many steps, the other was distilled to few.
    told = config.guidance_embeds
    weights = functools.cache(lambda dtype: load_flux(folder / "transformer", dtype=dtype)[1])
    encoder = functools.cache(functools.partial(_encoder, folder))

    @functools.cache
    def load(
        *,
        guidance: float | None = 3.5 if told else None,
        true_guidance: float = 1.0,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int = 512 if told else 256,
        dtype: Literal["float32", "bfloat16"] = "float32",
        text_dtype: Literal["float32", "bfloat16"] = "float32",
        remat: bool = False,
    ) -> Model:
        """FLUX.1-dev or FLUX.1-schnell, or another pipeline of their form.

        A prompt is a text, which CLIP reads as a whole, of its first 75 tokens, and T5 token by
        token.

        Args:
            guidance: the scale of guidance that a network distilled to follow one is told, as
                FLUX.1-dev is; it costs nothing. null for others, as FLUX.1-schnell.
            true_guidance: scale of classifier-free guidance beside that; 1 and less is none, more
                doubles the network passes.
            negative_prompt: what true guidance leads away from, for all prompts.
            height: of pictures in pixels, a multiple of 16. null: 1024. Steps may hang on it.
            width: of pictures in pixels, a multiple of 16. null: 1024. Steps may hang on it.
            max_sequence_length: the most tokens that T5 reads of a prompt.
            dtype: of weights and computation; samples are float32.
            text_dtype: of the encoders of texts, which have 4.9 billion weights where the published
                ones are meant: 20 GB, or half in bfloat16, while prompts are read.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.

        Raises:
            ValueError: if a setting is out of its range, or the folder's files do not fit.
        """
        tall, wide = _tokens({"height": height, "width": width}, scale)
        _check_guidance(guidance, told)
        check_range("true_guidance", true_guidance)
        check_negative_prompt(negative_prompt, true_guidance > 1, true_guidance, "true_guidance")
        check_count("max_sequence_length", max_sequence_length, 2, _MOST_TOKENS)
        read = encoder(text_dtype, max_sequence_length)

        def encode(texts: Sequence[str]) -> GuidedText:
            text = read(texts)
            if guidance is None:
                return text
            return text._replace(guidance=jnp.full(len(texts), guidance, jnp.float32))

        denoiser = rectified_flow_denoiser(
            flux_network(config, dtype=dtype, remat=remat),
            weights(dtype),
            shape=(PATCH * tall, PATCH * wide, config.latent_channels),
        )
        denoiser = guided(denoiser, encode, guidance=true_guidance, negative_prompt=negative_prompt)
        return of_texts(folder, denoiser, encode, dtype=dtype, remat=remat)

    def fitted(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        tall, wide = _tokens({side: settings.get(side) for side in ("height", "width")}, scale)
        return {"schedule": {"name": "shifted", "shift": shift(tall * wide)}}

    schedule = {"num_steps": 28 if told else 4, **fitted({})["schedule"]}
    return ModelEntry(
        load=load,
        verifiers={},
        defaults=defaults(schedule, (_SIDE * scale) ** 2),
        files=files_in(
            folder,
            "model_index.json",
            "scheduler/scheduler_config.json",
            *part_files(folder, "transformer"),
            *part_files(folder, "vae"),
            *(name for part in (_CLIP, _T5) for name in part_files(folder, part, OF_TRANSFORMERS)),
            *(f"tokenizer/{name}" for name in FILES),
            *(f"tokenizer_2/{name}" for name in T5_FILES),
        ),
        fitted=fitted,
    )


def _tokens(pixels: Mapping[str, int | None], scale: int) -> tuple[int, ...]:
    """Rows and columns of tokens, each `scale` pixels wide."""
    return sides(pixels, _SIDE, scale)


def _check_guidance(guidance: float | None, told: bool) -> None:
    """Refuses a scale for a network that is told none, and none for one that is."""
    if guidance is None:
        if told:
            raise ValueError(
                "guidance is null, but the transformer is told a scale of guidance "
                "(guidance_embeds is true): give a number"
            )
    elif not told:
        raise ValueError(
            f"guidance is {guidance:g}, but the transformer is told none (guidance_embeds is "
            "false): leave it out, or take true_guidance"
        )
    else:
        check_range("guidance", guidance, 0.0)


def _check_fit(folder: Path, config: FluxConfig) -> None:
    """Refuses networks that do not go together."""
    pooled = config_of(folder / _CLIP, clip_text_whole_config).text.hidden_size
    whole = "texts as a whole"
    check_texts_fit(folder, pooled, config, "pooled_projection_dim", "transformer", whole)
    features = config_of(folder / _T5, t5_encoder_config).d_model
    check_texts_fit(folder, features, config, "joint_attention_dim", "transformer")
    check_latents_fit(folder, config.latent_channels, "transformer", "in_channels / 4")


def _encoder(folder: Path, dtype: str, length: int) -> Callable[[Sequence[str]], GuidedText]:
    """`texts [P] -> GuidedText`, float32, without a scale of guidance."""
    config = config_of(folder / _CLIP, clip_text_whole_config)
    clip = encoder_of_folder(
        folder,
        _CLIP,
        clip_text_whole_network(config, dtype=dtype),
        lambda: load_clip_text_whole(folder / _CLIP, dtype=dtype)[1],
        load_clip_tokenizer(folder / "tokenizer", length=config.text.max_position_embeddings),
        vocab_size=config.text.vocab_size,
    )
    t5 = t5_texts(folder, _T5, "tokenizer_2", dtype=dtype, length=length)
    return lambda texts: GuidedText(t5(texts).tokens, clip(texts), None)
