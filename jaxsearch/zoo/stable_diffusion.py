"""Stable Diffusion 1 and 2 as the command offers them: folders of pipelines of `diffusers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.process import variance_preserving
from jaxsearch.core.types import Array, Denoiser, Process, Prompts
from jaxsearch.models.autoencoder_kl import (
    autoencoder_config,
    autoencoder_decoder,
    load_autoencoder,
)
from jaxsearch.models.clip_text import clip_text_config, clip_text_network, load_clip_text
from jaxsearch.models.clip_tokenizer import FILES, load_clip_tokenizer
from jaxsearch.models.configs import read_json
from jaxsearch.models.epsilon import epsilon_denoiser, v_denoiser
from jaxsearch.models.folders import check_entries, number, part_files
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.names import OF_TRANSFORMERS
from jaxsearch.models.unet2d_condition import UNetConfig, load_unet, unet_config, unet_network
from jaxsearch.zoo.model import Model, ModelEntry, files_in
from jaxsearch.zoo.texts import text_encoder, text_ids

_PARTS = {
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}
_PREDICTIONS: dict[str, Callable[..., Denoiser]] = {
    "epsilon": epsilon_denoiser,
    "v_prediction": v_denoiser,
}


class Scheduler(NamedTuple):
    """What `scheduler/scheduler_config.json` says of the process, and of the steps to take."""

    process: Process
    prediction: str  # "epsilon" or "v_prediction"
    schedule: Mapping[str, Any]  # settings of `trained_steps`


OTHER_STEPS = (
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers of which only the process is read."""

_OF_PROCESS = (
    *("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps"),
    *("prediction_type", "rescale_betas_zero_snr", "use_flow_sigmas"),
    *("clip_sample", "thresholding"),  # these change what the network is taken to say
)


def scheduler(entries: Mapping[str, Any]) -> Scheduler:
    """Reads the config of a scheduler of `diffusers`.

    They stand for the same process; which of them steps through it is a matter of the solver, which
    is chosen elsewhere. The steps that are visited are those of a `DDIMScheduler`, `PNDMScheduler`
    or `EulerDiscreteScheduler` as the file has them; of the classes in `OTHER_STEPS`, whose steps
    are for their own formulas, only the process is read, and the steps are DDIM's.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    if entries.get("_class_name") in OTHER_STEPS:
        process = {name: value for name, value in entries.items() if name in _OF_PROCESS}
        entries = {"_class_name": "DDIMScheduler", "steps_offset": 1, **process}
    check_entries(
        entries,
        needed=("_class_name", "beta_start", "beta_end"),
        # Those of a clipping or thresholding that is off, and of PNDM's first steps.
        optional=(
            *("num_train_timesteps", "steps_offset", "skip_prk_steps"),
            *("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"),
        ),
        fixed={
            "_class_name": (
                *("DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
                *OTHER_STEPS,
            ),
            "beta_schedule": ("scaled_linear", "linear"),
            "clip_sample": (False,),
            "final_sigmas_type": ("zero",),
            "interpolation_type": ("linear",),
            "prediction_type": tuple(_PREDICTIONS),
            "rescale_betas_zero_snr": (False,),
            "set_alpha_to_one": (False, True),
            "sigma_max": (None,),
            "sigma_min": (None,),
            "thresholding": (False,),
            "timestep_spacing": ("leading", "trailing", "linspace"),
            "timestep_type": ("discrete",),
            "trained_betas": (None,),
            "use_beta_sigmas": (False,),
            "use_flow_sigmas": (False,),
            "use_exponential_sigmas": (False,),
            "use_karras_sigmas": (False,),
        },
    )
    betas = {name: number(entries, name, 0.0) for name in ("beta_start", "beta_end")}
    for name, value in betas.items():
        check_range(f"the config's {name}", value, 0.0, 1.0, open_low=True, open_high=True)
    num_train_steps = entries.get("num_train_timesteps", 1000)
    check_count("the config's num_train_timesteps", num_train_steps)
    offset = entries.get("steps_offset", 0)
    check_count("the config's steps_offset", offset, 0)
    # What each class does where nothing is said.
    kind = entries["_class_name"]
    is_euler = kind == "EulerDiscreteScheduler"
    spacing = entries.get("timestep_spacing", "linspace" if is_euler else "leading")
    clean = is_euler or entries.get("set_alpha_to_one", kind != "PNDMScheduler")
    # Where the last step is the first of training, one more to its own noise would do nothing.
    clean = clean or spacing == "linspace" or (spacing == "leading" and offset == 0)
    return Scheduler(
        variance_preserving(
            **betas,
            shape=entries.get("beta_schedule", "linear"),
            num_train_steps=num_train_steps,
        ),
        entries.get("prediction_type", "epsilon"),
        {
            "spacing": spacing,
            "offset": offset if spacing == "leading" else 0,
            "final": "clean" if clean else "first",
        },
    )


def entry(folder: Path) -> ModelEntry:
    """What can be said of a pipeline's folder before its weights are read.

    Raises:
        ValueError: if a config cannot be read, or says what is not supported.
    """
    _check_parts(folder / "model_index.json")
    config = _of(folder / "unet", unet_config)
    plan = _of(folder / "scheduler", _corrected, "scheduler_config.json")
    scale = 2 ** (len(_of(folder / "vae", autoencoder_config).block_out_channels) - 1)
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
            guidance: scale of classifier-free guidance; 1 is none, others double the network
                passes.
            negative_prompt: what guidance leads away from, for all prompts.
            height: of pictures in pixels, a multiple of 8. null: as it was trained.
            width: of pictures in pixels, a multiple of 8. null: as it was trained.
            dtype: of weights and computation; samples, and the encoder of texts, are float32.
            remat: whether a gradient computes each block of network and decoder again, which takes
                longer, instead of keeping what is inside it.

        Raises:
            ValueError: if a setting is out of its range, or the folder's files do not fit.
        """
        sides = _sides({"height": height, "width": width}, config.sample_size, scale)
        check_range("guidance scale", guidance)
        if negative_prompt and guidance == 1:
            raise ValueError(
                f"negative_prompt is {negative_prompt!r}, but guidance is 1, which is none: raise "
                "guidance or leave the negative prompt out"
            )
        encode = _encoder(folder)
        _, params = load_unet(folder / "unet", dtype=dtype)
        denoiser = _PREDICTIONS[plan.prediction](
            unet_network(config, dtype=dtype, remat=remat),
            params,
            shape=(*sides, config.in_channels),
            process=plan.process,
        )
        denoiser = classifier_free_guidance(
            denoiser, scale=guidance, null=encode([negative_prompt])[0]
        )
        autoencoder, weights = load_autoencoder(folder / "vae", dtype=dtype)
        decoder = autoencoder_decoder(autoencoder, weights, dtype=dtype, remat=remat)

        def prompts(texts: Sequence[str]) -> Prompts:
            return Prompts(jnp.asarray(text_ids(texts)), encode(texts))

        return Model(denoiser, decoder, prompts, text_ids)

    return ModelEntry(
        load=load,
        verifiers={},
        defaults={
            "solver": {"name": "first_order", "eta": 1.0},
            "schedule": {"name": "trained_steps", "num_steps": 50, **plan.schedule},
            "guide": ["brightness"],
            "report": ["brightness", "compressibility"],
            "verifiers": {"compressibility": {"max_bytes": 150_000}},  # of 512 x 512 pixels
            "prompts": ["a lighthouse on a cliff at dusk"],
        },
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


def _check_parts(path: Path) -> None:
    """Refuses a pipeline whose networks are of other classes."""
    parts = read_json(path)
    for part, wanted in _PARTS.items():
        if part not in parts:
            raise ValueError(f"{path} has no {part}: its class must be {wanted}")
        value = parts[part]
        found = value[-1] if isinstance(value, list) and value else value
        if found != wanted:
            raise ValueError(f"{path}: {part} is {found!r}: only {wanted!r} is supported")


def _of(folder: Path, read: Callable[[Mapping[str, Any]], Any], name: str = "config.json") -> Any:
    """A config of one of the folders; what is wrong with it is said with its path."""
    try:
        return read(read_json(folder / name))
    except ValueError as error:
        message = str(error)
        raise ValueError(
            message if str(folder) in message else f"{folder / name}: {message}"
        ) from error


def _check_fit(folder: Path, config: UNetConfig) -> None:
    """Refuses networks that do not go together."""
    text = _of(folder / "text_encoder", clip_text_config)
    if text.hidden_size != config.cross_attention_dim:
        raise ValueError(
            f"{folder}: texts have {text.hidden_size} features, but the unet's cross_attention_dim "
            f"is {config.cross_attention_dim}"
        )
    latent = _of(folder / "vae", autoencoder_config).latent_channels
    if latent != config.in_channels:
        raise ValueError(
            f"{folder}: the unet's in_channels is {config.in_channels}, but the vae's latents have "
            f"{latent} channels"
        )


def _sides(pixels: Mapping[str, int | None], trained: int, scale: int) -> tuple[int, ...]:
    """Height and width of a latent."""
    for name, value in pixels.items():
        if value is not None:
            check_count(name, value)
            if value % scale:
                raise ValueError(f"{name} is {value}: it must be a multiple of {scale}")
    return tuple(trained if value is None else value // scale for value in pixels.values())


def _encoder(folder: Path) -> Callable[[Sequence[str]], Array]:
    """`texts [P] -> features [P, length, features]` float32."""
    config, params = load_clip_text(folder / "text_encoder")
    return text_encoder(
        clip_text_network(config),
        params,
        load_clip_tokenizer(folder / "tokenizer", length=config.max_position_embeddings),
        vocab_size=config.vocab_size,
        source=folder,
    )
