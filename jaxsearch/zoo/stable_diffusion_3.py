"""Stable Diffusion 3 and 3.5 as the command offers them: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.types import Array, Prompts, PyTree
from jaxsearch.models.autoencoder_kl import autoencoder_decoder, load_autoencoder
from jaxsearch.models.clip_text_features import ARCHITECTURES, clip_text_features_config
from jaxsearch.models.clip_tokenizer import FILES
from jaxsearch.models.folders import part_files
from jaxsearch.models.guidance import classifier_free_guidance
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
from jaxsearch.models.t5_encoder import (
    T5EncoderConfig,
    load_t5_encoder,
    t5_encoder_config,
    t5_encoder_network,
)
from jaxsearch.models.t5_tokenizer import load_t5_tokenizer
from jaxsearch.zoo.clip_texts import CLIPS, clip_texts
from jaxsearch.zoo.model import Model, ModelEntry, files_in
from jaxsearch.zoo.pipeline import (
    check_latents_fit,
    check_negative_prompt,
    check_parts,
    config_of,
    defaults,
    pixels_of_latent,
    sides,
)
from jaxsearch.zoo.scheduler import flow_scheduler
from jaxsearch.zoo.texts import text_encoder, text_ids

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
        if guidance > 1:
            null = jax.tree.map(lambda rows: rows[0], encode([negative_prompt]))
            denoiser = classifier_free_guidance(denoiser, scale=guidance, null=null)
        autoencoder, params = load_autoencoder(folder / "vae", dtype=dtype)
        decoder = autoencoder_decoder(autoencoder, params, dtype=dtype, remat=remat)

        def prompts(texts: Sequence[str]) -> Prompts:
            return Prompts(jnp.asarray(text_ids(texts)), encode(texts))

        return Model(denoiser, decoder, prompts, text_ids)

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
    if pooled != config.pooled_projection_dim:
        raise ValueError(
            f"{folder}: texts as a whole have {pooled} features, but the transformer's "
            f"pooled_projection_dim is {config.pooled_projection_dim}"
        )
    features = config_of(folder / _T5, t5_encoder_config).d_model
    if features != config.joint_attention_dim:
        raise ValueError(
            f"{folder}: texts have {features} features, but the transformer's joint_attention_dim "
            f"is {config.joint_attention_dim}"
        )
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
    config, params = load_t5_encoder(folder / _T5, dtype=dtype)
    tokenise = load_t5_tokenizer(folder / "tokenizer_3", length=length)
    # Padding is seen, as the network was trained.
    t5 = text_encoder(
        _seeing_all(config, dtype),
        params,
        lambda texts: tokenise(texts)[0],
        vocab_size=config.vocab_size,
        source=folder / _T5,
    )

    def encode(texts: Sequence[str]) -> PooledText:
        found = clips(texts)
        short = jnp.concatenate([part.tokens for part in found], axis=-1)
        missing = config.d_model - short.shape[-1]
        short = jnp.pad(short, ((0, 0), (0, 0), (0, missing)))
        wholes = [part.whole for part in found if part.whole is not None]  # all of them have one
        pooled = jnp.concatenate(wholes, axis=-1)
        return PooledText(jnp.concatenate([short, t5(texts)], axis=1), pooled)

    return encode


@functools.cache
def _seeing_all(config: T5EncoderConfig, dtype: str) -> Callable[[PyTree, Array], Array]:
    network = t5_encoder_network(config, dtype=dtype)

    def apply(params: PyTree, ids: Array) -> Array:
        return network(params, ids, jnp.asarray(np.ones(ids.shape, bool)))

    return apply
