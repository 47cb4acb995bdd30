"""`FlaxStableDiffusionPipeline` of an older diffusers as a model that can be searched.

Flax was removed from diffusers in 0.40 and from transformers in 5.0, so this needs an environment
of its own (`pip install "jaxsearch[flax-legacy]"`). Nothing of either is imported here: the
pipeline comes from whoever has loaded it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.types import Array, Decoder, Prompts, PyTree
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.zoo.model import Model
from jaxsearch.zoo.pipeline import check_negative_prompt, sides
from jaxsearch.zoo.scheduler import PREDICTIONS, Scheduler, scheduler
from jaxsearch.zoo.texts import text_encoder, text_ids

_PARTS = ("unet", "vae", "text_encoder")


def flax_pipeline(
    pipeline: Any,
    params: Mapping[str, PyTree],
    *,
    guidance: float = 7.5,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
) -> Model:
    """A `FlaxStableDiffusionPipeline` and its weights as a model that can be searched.

    Its U-Net and autoencoder are called as they are (`unet.apply`, `vae.apply`); the process is
    that of its scheduler, which itself is not run: solver and schedule are the search's (the latter
    as `flax_scheduler` has it). The same pipeline makes another model at each call: keep it.

    Args:
        pipeline: with its networks, its tokenizer and its scheduler. A safety checker is not asked.
        params: by part, as `from_pretrained` gives them.
        guidance: scale of classifier-free guidance; 1 is none, others double the network passes.
        negative_prompt: what guidance leads away from, for all prompts.
        height: of pictures in pixels, a multiple of 8. None: as it was trained.
        width: of pictures in pixels, a multiple of 8. None: as it was trained.

    Raises:
        ValueError: if a setting is out of its range, a part has no weights, or the scheduler is not
            supported.
    """
    for part in _PARTS:
        if part not in params:
            raise ValueError(f"params have no {part}: give those that from_pretrained returned")
    plan = flax_scheduler(pipeline)
    config, scale = pipeline.unet.config, pipeline.vae_scale_factor
    latent = sides({"height": height, "width": width}, config.sample_size, scale)
    check_range("guidance scale", guidance)
    check_negative_prompt(negative_prompt, guidance != 1, guidance)
    texts = pipeline.text_encoder

    def predict(params: PyTree, x: Array, t: Array, cond: Array) -> Array:
        x = jnp.transpose(x, (0, 3, 1, 2))
        said = pipeline.unet.apply({"params": params}, x, t, encoder_hidden_states=cond).sample
        return jnp.transpose(said, (0, 2, 3, 1)).astype(jnp.float32)

    def decode(params: PyTree, latents: Array) -> Array:
        vae = pipeline.vae
        latents = jnp.transpose(latents, (0, 3, 1, 2)) / vae.config.scaling_factor
        images = vae.apply({"params": params}, latents, method=vae.decode).sample
        images = jnp.transpose(images, (0, 2, 3, 1)).astype(jnp.float32)
        return jnp.clip(images / 2 + 0.5, 0.0, 1.0)

    def read(params: PyTree, ids: Array) -> Array:
        return texts(ids, params=params)[0].astype(jnp.float32)

    def tokenise(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(pipeline.prepare_inputs(list(texts)), np.int32)

    encode = text_encoder(
        read,
        params["text_encoder"],
        tokenise,
        vocab_size=texts.config.vocab_size,
        source="the pipeline",
    )

    def prompts(texts: Sequence[str]) -> Prompts:
        return Prompts(jnp.asarray(text_ids(texts)), encode(texts))

    denoiser = PREDICTIONS[plan.prediction](
        predict, params["unet"], shape=(*latent, config.in_channels), process=plan.process
    )
    denoiser = classifier_free_guidance(denoiser, scale=guidance, null=encode([negative_prompt])[0])
    return Model(denoiser, Decoder(apply=decode, params=params["vae"]), prompts, text_ids)


def flax_scheduler(pipeline: Any) -> Scheduler:
    """The process of a pipeline's scheduler, and the settings of `trained_steps` for its steps.

    Raises:
        ValueError: naming an entry of its config that is not supported.
    """
    one = pipeline.scheduler
    entries = {name: value for name, value in dict(one.config).items() if name != "dtype"}
    return scheduler({**entries, "_class_name": type(one).__name__.removeprefix("Flax")})
