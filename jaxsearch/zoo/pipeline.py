"""What folders of diffusers' text-to-image pipelines have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxsearch.core.checks import check_count
from jaxsearch.models.autoencoder_kl import autoencoder_config
from jaxsearch.models.configs import read_json


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


def check_latents_fit(folder: Path, channels: int, network: str) -> None:
    """Refuses an autoencoder whose latents are not a network's.

    Args:
        folder: of the pipeline.
        channels: `in_channels` of its network.
        network: what that is called.

    Raises:
        ValueError: if they have another number of channels.
    """
    latent = config_of(folder / "vae", autoencoder_config).latent_channels
    if latent != channels:
        raise ValueError(
            f"{folder}: the {network}'s in_channels is {channels}, but the vae's latents have "
            f"{latent} channels"
        )


def check_negative_prompt(negative_prompt: str | None, guided: bool, guidance: float) -> None:
    """Refuses a negative prompt where nothing leads away from it.

    Raises:
        ValueError: naming both settings.
    """
    if negative_prompt and not guided:
        raise ValueError(
            f"negative_prompt is {negative_prompt!r}, but guidance is {guidance:g}, which is none: "
            "raise guidance or leave the negative prompt out"
        )
