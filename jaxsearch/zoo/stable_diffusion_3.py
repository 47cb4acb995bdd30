"""Stable Diffusion 3 and 3.5 as the command offers them: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.models.clip_text_features import ARCHITECTURES, clip_text_features_config
from jaxsearch.models.clip_tokenizer import FILES
from jaxsearch.models.folders import part_files
from jaxsearch.models.mmdit import (
    MMDiTConfig,
    PooledText,
    load_mmdit,
    mmdit_config,
    mmdit_network,
    placed,
)
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.rectified_flow import rectified_flow_denoiser
from jaxsearch.models.t5_encoder import t5_encoder_config
from jaxsearch.zoo.clip_texts import CLIPS, clip_texts
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
from jaxsearch.zoo.scheduler import flow_scheduler
from jaxsearch.zoo.t5_texts import t5_texts

_T5 = "text_encoder_3"
_TOKENIZERS = (*CLIPS.values(), "tokenizer_3")
_PARTS = {
    **dict.fromkeys(CLIPS, ARCHITECTURES[1]),
    _T5: "T5EncoderModel",
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
}
_MOST_TOKENS = 512


def entry(folder: Path) -> ModelEntry:
    """What can be said of a pipeline's folder before its weights are read.

    Raises:
        ValueError: if a config cannot be read, or says what is not supported.
    """
    check_parts(folder / "model_index.json", _PARTS)
    config = config_of(folder / "transformer", mmdit_config)
    steps = config_of(folder / "scheduler", flow_scheduler, "scheduler_config.json")
    scale = pixels_of_latent(folder)
    _check_fit(folder, config)
    weights = functools.cache(lambda dtype: load_mmdit(folder / "transformer", dtype=dtype)[1])
    encoder = functools.cache(functools.partial(_encoder, folder))

    @functools.cache
    def load(
        *,
        guidance: float = 7.0,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int = 256,
        dtype: Literal["float32", "bfloat16"] = "float32",
        text_dtype: Literal["float32", "bfloat16"] = "float32",
        remat: bool = False,
    ) -> Model:
        """Stable Diffusion 3 or 3.5, or another pipeline of their form.

        A prompt is a text, of which CLIP's encoders read the first 75 tokens and T5 more.

        Args:
            guidance: scale of classifier-free guidance; 1 and less is none, more doubles the
                network passes.
            negative_prompt: what guidance leads away from, for all prompts.
            height: of pictures in pixels, a multiple of 16. null: as it was trained.
            width: of pictures in pixels, a multiple of 16. null: as it was trained.
            max_sequence_length: the most tokens that T5 reads of a prompt.
            dtype: of weights and computation; samples are float32.
            text_dtype: of the encoders of texts, which have 5.6 billion weights where the published
                ones are meant: 23 GB, or half in bfloat16, while prompts are read.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.

        Raises:
            ValueError: if a setting is out of its range, or the folder's files do not fit.
        """
        patch = config.patch_size
        trained, pixels = config.sample_size // patch, {"height": height, "width": width}
        tall, wide = (patch * side for side in sides(pixels, trained, scale * patch))
        check_range("guidance scale", guidance)
        check_negative_prompt(negative_prompt, guidance > 1, guidance)
        check_count("max_sequence_length", max_sequence_length, 2, _MOST_TOKENS)
        encode = encoder(text_dtype, max_sequence_length)
        denoiser = rectified_flow_denoiser(
            mmdit_network(config, dtype=dtype, remat=remat),
            placed(weights(dtype), config, tall, wide),
            shape=(tall, wide, config.in_channels),
        )
        denoiser = guided(denoiser, encode, guidance=guidance, negative_prompt=negative_prompt)
        return of_texts(folder, denoiser, encode, dtype=dtype, remat=remat)

    return ModelEntry(
        load=load,
        verifiers={},
        defaults=defaults(
            {"name": "shifted", "num_steps": 28, **steps}, (config.sample_size * scale) ** 2
        ),
        files=files_in(
            folder,
            "model_index.json",
            "scheduler/scheduler_config.json",
            *part_files(folder, "transformer"),
            *part_files(folder, "vae"),
            *(name for part in (*CLIPS, _T5) for name in part_files(folder, part, OF_TRANSFORMERS)),
            *(f"{part}/{name}" for part in _TOKENIZERS for name in FILES),
        ),
    )


def _check_fit(folder: Path, config: MMDiTConfig) -> None:
    """Refuses networks that do not go together."""
    clips = [config_of(folder / part, clip_text_features_config) for part in CLIPS]
    pooled = sum(clip.projection_dim or 0 for clip in clips)
    whole = "texts as a whole"
    check_texts_fit(folder, pooled, config, "pooled_projection_dim", "transformer", whole)
    features = config_of(folder / _T5, t5_encoder_config).d_model
    check_texts_fit(folder, features, config, "joint_attention_dim", "transformer")
    narrow = sum(clip.text.hidden_size for clip in clips)
    if narrow > features:
        raise ValueError(
            f"{folder}: CLIP's encoders have {narrow} features together, more than the {features} "
            f"of {_T5}"
        )
    check_latents_fit(folder, config.in_channels, "transformer")


def _encoder(folder: Path, dtype: str, length: int) -> Callable[[Sequence[str]], PooledText]:
    """`texts [P] -> PooledText`, float32: CLIP's tokens, filled up with zeros, then T5's."""
    clips = clip_texts(folder, dtype=dtype)
    t5 = t5_texts(folder, _T5, "tokenizer_3", dtype=dtype, length=length)

    def encode(texts: Sequence[str]) -> PooledText:
        found = clips(texts)
        short = jnp.concatenate([part.tokens for part in found], axis=-1)
        words = t5(texts).tokens
        missing = words.shape[-1] - short.shape[-1]
        short = jnp.pad(short, ((0, 0), (0, 0), (0, missing)))
        wholes = [part.whole for part in found if part.whole is not None]  # all of them have one
        pooled = jnp.concatenate(wholes, axis=-1)
        return PooledText(jnp.concatenate([short, words], axis=1), pooled)

    return encode
