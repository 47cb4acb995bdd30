"""What folders of diffusers' text-to-image pipelines have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Denoiser, Prompts, PyTree
from jaxsearch.models.autoencoder_kl import (
    autoencoder_config,
    autoencoder_decoder,
    load_autoencoder,
)
from jaxsearch.models.configs import read_json
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.zoo.model import Model
from jaxsearch.zoo.texts import text_ids


def check_parts(path: Path, wanted_of: Mapping[str, str | tuple[str, ...]]) -> None:
    """Refuses a pipeline whose networks are of other classes.

    Args:
        path: its `model_index.json`.
        wanted_of: part -> the class that it must have, or those of which it must have one.

    Raises:
        ValueError: naming the first part that is missing or of another class.
    """
    parts = read_json(path)
    for part, wanted in wanted_of.items():
        known = (wanted,) if isinstance(wanted, str) else wanted
        if part not in parts:
            raise ValueError(f"{path} has no {part}: its class must be {' or '.join(known)}")
        value = parts[part]
        found = value[-1] if isinstance(value, list) and value else value
        if found not in known:
            only = " or ".join(map(repr, known))
            raise ValueError(f"{path}: {part} is {found!r}: only {only} is supported")


def config_of(
    folder: Path, read: Callable[[Mapping[str, Any]], Any], name: str = "config.json"
) -> Any:
    """A config of one of a pipeline's folders.

    Raises:
        ValueError: what `read` says of it, with its path.
    """
    try:
        return read(read_json(folder / name))
    except ValueError as error:
        message = str(error)
        raise ValueError(
            message if str(folder) in message else f"{folder / name}: {message}"
        ) from error


def sides(pixels: Mapping[str, int | None], trained: int, scale: int) -> tuple[int, ...]:
    """Height and width of a latent.

    Args:
        pixels: what was asked for, by name; None is as it was trained.
        trained: side of the latents that the network was trained with.
        scale: pixels of a latent's side.

    Raises:
        ValueError: if a latent has no such size.
    """
    for name, value in pixels.items():
        if value is not None:
            check_count(name, value)
            if value % scale:
                raise ValueError(f"{name} is {value}: it must be a multiple of {scale}")
    return tuple(trained if value is None else value // scale for value in pixels.values())


def pixels_of_latent(folder: Path) -> int:
    """The pixels along a latent's side, by the config of a pipeline's autoencoder."""
    return 2 ** (len(config_of(folder / "vae", autoencoder_config).block_out_channels) - 1)


def defaults(schedule: Mapping[str, Any], pixels: int) -> dict[str, Any]:
    """What a model's entry has where nobody chooses.

    Args:
        schedule: the name of one, and its settings.
        pixels: of a picture. One of 512 x 512 may have 150 000 bytes, others as many to a pixel.
    """
    return {
        "solver": {"name": "first_order", "eta": 1.0},
        "schedule": dict(schedule),
        "guide": ["brightness"],
        "report": ["brightness", "compressibility"],
        "verifiers": {"compressibility": {"max_bytes": max(150_000 * pixels // 512**2, 1)}},
        "prompts": ["a lighthouse on a cliff at dusk"],
    }


def check_texts_fit(
    folder: Path, features: int, config: Any, entry: str, network: str, texts: str = "texts"
) -> None:
    """Refuses encoders of texts whose features are not as many as a network reads.

    Args:
        folder: of the pipeline.
        features: what they give.
        config: of the network.
        entry: of it, how many it reads.
        network: what that is called.
        texts: what has these features.

    Raises:
        ValueError: if they are of another number.
    """
    if features != getattr(config, entry):
        raise ValueError(
            f"{folder}: {texts} have {features} features, but the {network}'s {entry} is "
            f"{getattr(config, entry)}"
        )


def check_latents_fit(
    folder: Path, channels: int, network: str, entry: str = "in_channels"
) -> None:
    """Refuses an autoencoder whose latents are not a network's.

    Args:
        folder: of the pipeline.
        channels: of its network's latents.
        network: what that is called.
        entry: of its config, that those are.

    Raises:
        ValueError: if they have another number of channels.
    """
    latent = config_of(folder / "vae", autoencoder_config).latent_channels
    if latent != channels:
        raise ValueError(
            f"{folder}: the {network}'s {entry} is {channels}, but the vae's latents have "
            f"{latent} channels"
        )


def check_negative_prompt(
    negative_prompt: str | None, guided: bool, guidance: float, name: str = "guidance"
) -> None:
    """Refuses a negative prompt where nothing leads away from it.

    Args:
        negative_prompt: what was asked for.
        guided: whether anything leads away from it.
        guidance: the scale by which it does.
        name: of the setting that is that scale.

    Raises:
        ValueError: naming both settings.
    """
    if negative_prompt and not guided:
        raise ValueError(
            f"negative_prompt is {negative_prompt!r}, but {name} is {guidance:g}, which is none: "
            f"raise {name} or leave the negative prompt out"
        )


Encode = Callable[[Sequence[str]], PyTree]
"""Texts [P] -> what a network is told of them, leaves [P, ...]."""


def guided(
    denoiser: Denoiser, encode: Encode, *, guidance: float, negative_prompt: str
) -> Denoiser:
    """A denoiser led away from a text; where the scale is 1 or less, as it is."""
    if guidance <= 1:
        return denoiser
    null = jax.tree.map(lambda rows: rows[0], encode([negative_prompt]))
    return classifier_free_guidance(denoiser, scale=guidance, null=null)


def of_texts(folder: Path, denoiser: Denoiser, encode: Encode, *, dtype: str, remat: bool) -> Model:
    """A pipeline's model, whose prompts are texts.

    Args:
        folder: of the pipeline, with the decoder's weights in `vae/`.
        denoiser: guided, if it is to be.
        encode: what it is told of texts.
        dtype: of the decoder.
        remat: whether a gradient computes each of its blocks again.

    Raises:
        ValueError: if the decoder's files do not fit.
    """
    autoencoder, params = load_autoencoder(folder / "vae", dtype=dtype)
    decoder = autoencoder_decoder(autoencoder, params, dtype=dtype, remat=remat)

    def prompts(texts: Sequence[str]) -> Prompts:
        return Prompts(jnp.asarray(text_ids(texts)), encode(texts))

    return Model(denoiser, decoder, prompts, text_ids)
