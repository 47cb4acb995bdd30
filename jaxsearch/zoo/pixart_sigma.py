"""PixArt-Sigma as the command offers it: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.models.folders import part_files
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.pixart import (
    MaskedText,
    PixArtConfig,
    load_pixart,
    pixart_config,
    pixart_network,
)
from jaxsearch.models.t5_encoder import t5_encoder_config
from jaxsearch.models.t5_tokenizer import FILES
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
from jaxsearch.zoo.scheduler import PREDICTIONS, scheduler
from jaxsearch.zoo.t5_texts import t5_texts

_PARTS = {
    "text_encoder": ("T5EncoderModel",),
    # What the first files were written as is a case of the second.
    "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
    "vae": ("AutoencoderKL",),
}
_MOST_TOKENS = 4096


def entry(folder: Path) -> ModelEntry:
    """What can be said of a pipeline's folder before its weights are read.

    Raises:
        ValueError: if a config cannot be read, or says what is not supported.
    """
    check_parts(folder / "model_index.json", _PARTS)
    config = config_of(folder / "transformer", pixart_config)
    plan = config_of(folder / "scheduler", scheduler, "scheduler_config.json")
    scale = pixels_of_latent(folder)
    _check_fit(folder, config)
    weights = functools.cache(lambda dtype: load_pixart(folder / "transformer", dtype=dtype)[1])
    encoder = functools.cache(functools.partial(_encoder, folder))

    @functools.cache
    def load(
        *,
        guidance: float = 4.5,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int = 300,
        dtype: Literal["float32", "bfloat16"] = "float32",
        text_dtype: Literal["float32", "bfloat16"] = "float32",
        remat: bool = False,
    ) -> Model:
        """PixArt-Sigma, or another pipeline of its form.

        A prompt is a text, which T5 reads in small letters.

        Args:
            guidance: scale of classifier-free guidance; 1 and less is none, more doubles the
                network passes.
            negative_prompt: what guidance leads away from, for all prompts.
            height: of pictures in pixels, a multiple of 16. null: as it was trained.
            width: of pictures in pixels, a multiple of 16. null: as it was trained.
            max_sequence_length: the most tokens of a prompt; the rest of it is not read.
            dtype: of weights and computation; samples are float32.
            text_dtype: of the encoder of texts, which has 4.8 billion weights where the published
                one is meant: 19 GB, or 9.5 in bfloat16, while prompts are read.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.

        Raises:
            ValueError: if a setting is out of its range, or the folder's files do not fit.
        """
        patch = config.patch_size
        trained, pixels = config.sample_size // patch, {"height": height, "width": width}
        latent = tuple(patch * side for side in sides(pixels, trained, scale * patch))
        check_range("guidance scale", guidance)
        check_negative_prompt(negative_prompt, guidance > 1, guidance)
        check_count("max_sequence_length", max_sequence_length, 2, _MOST_TOKENS)
        encode = encoder(text_dtype, max_sequence_length)
        denoiser = PREDICTIONS[plan.prediction](
            pixart_network(config, dtype=dtype, remat=remat),
            weights(dtype),
            shape=(*latent, config.in_channels),
            process=plan.process,
        )
        denoiser = guided(denoiser, encode, guidance=guidance, negative_prompt=negative_prompt)
        return of_texts(folder, denoiser, encode, dtype=dtype, remat=remat)

    return ModelEntry(
        load=load,
        verifiers={},
        defaults=defaults(
            {"name": "trained_steps", "num_steps": 20, **plan.schedule},
            (config.sample_size * scale) ** 2,
        ),
        files=files_in(
            folder,
            "model_index.json",
            "scheduler/scheduler_config.json",
            *part_files(folder, "transformer"),
            *part_files(folder, "vae"),
            *part_files(folder, "text_encoder", OF_TRANSFORMERS),
            *(f"tokenizer/{name}" for name in FILES),
        ),
    )


def _check_fit(folder: Path, config: PixArtConfig) -> None:
    """Refuses networks that do not go together."""
    features = config_of(folder / "text_encoder", t5_encoder_config).d_model
    check_texts_fit(folder, features, config, "caption_channels", "transformer")
    check_latents_fit(folder, config.in_channels, "transformer")


def _encoder(folder: Path, dtype: str, length: int) -> Callable[[Sequence[str]], MaskedText]:
    """`texts [P] -> MaskedText`, read in small letters and without what is around them."""
    encode = t5_texts(folder, "text_encoder", "tokenizer", dtype=dtype, length=length, masks=True)
    return lambda texts: encode([text.lower().strip() for text in texts])
