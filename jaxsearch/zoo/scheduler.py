"""Schedulers of diffusers' folders: which process they step through, and which steps they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.process import variance_preserving
from jaxsearch.core.types import Denoiser, Process
from jaxsearch.models.epsilon import epsilon_denoiser, v_denoiser
from jaxsearch.models.folders import check_entries, number

PREDICTIONS: dict[str, Callable[..., Denoiser]] = {
    "epsilon": epsilon_denoiser,
    "v_prediction": v_denoiser,
}
"""What a network was trained to say -> the denoiser made of it."""


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
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
)
"""Schedulers of which only the process is read."""

_EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
_OF_PROCESS = (
    *("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps"),
    *("prediction_type", "rescale_betas_zero_snr", "use_flow_sigmas"),
    *("clip_sample", "thresholding"),  # these change what the network is taken to say
)


def scheduler(entries: Mapping[str, Any]) -> Scheduler:
    """Reads the config of a scheduler of `diffusers`.

    They stand for the same process; which of them steps through it is a matter of the solver, which
    is chosen elsewhere. The steps that are visited are those of a `DDIMScheduler`, `PNDMScheduler`,
    `EulerDiscreteScheduler` or `EulerAncestralDiscreteScheduler` as the file has them; of the
    classes in `OTHER_STEPS`, whose steps are for their own formulas, only the process is read, and
    the steps are DDIM's.

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
            "_class_name": ("DDIMScheduler", "PNDMScheduler", *_EULER, *OTHER_STEPS),
            "beta_schedule": ("scaled_linear", "linear"),
            "clip_sample": (False,),
            "final_sigmas_type": ("zero",),
            "interpolation_type": ("linear",),
            "prediction_type": tuple(PREDICTIONS),
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
    is_euler = kind in _EULER
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


def flow_scheduler(entries: Mapping[str, Any]) -> dict[str, float]:
    """Settings of the schedule `shifted`, as a `FlowMatchEulerDiscreteScheduler` has its steps.

    That moves the first and last step of training by its shift, takes even times between them, and
    moves those by the shift once more.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    _check_flow(entries, by_size=(False,))
    shift, num = _shift(entries), entries["num_train_timesteps"]
    return {"shift": shift, "smallest": shift / (num + shift - 1.0)}


_BY_SIZE = {  # what FLUX.1's pipeline has where nothing is said
    "base_image_seq_len": 256.0,
    "max_image_seq_len": 4096.0,
    "base_shift": 0.5,
    "max_shift": 1.15,
}


def sized_flow_scheduler(entries: Mapping[str, Any]) -> Callable[[int], float]:
    """The shift of a `FlowMatchEulerDiscreteScheduler` that is given even times from 1.

    Of those whose shift hangs on the size of a picture it is `e^m`, and `m` is linear in the number
    of tokens that the picture is to the network; others have one shift for all.

    Returns:
        `number of tokens -> shift`, as the schedule `shifted` takes it.

    Raises:
        ValueError: naming the first entry that is missing, unknown, or of a value that is not
            supported.
    """
    _check_flow(entries, by_size=(False, True))
    if not entries.get("use_dynamic_shifting", False):
        shift = _shift(entries)
        return lambda num_tokens: shift
    kind = entries.get("time_shift_type", "exponential")
    if kind != "exponential":
        raise ValueError(
            f"the config's time_shift_type is {kind!r}: only 'exponential' is supported"
        )
    low, high, at_low, at_high = (
        number(entries, name, absent) for name, absent in _BY_SIZE.items()
    )
    check_range("the config's max_image_seq_len", high, low, open_low=True)
    slope = (at_high - at_low) / (high - low)
    return lambda num_tokens: math.exp(at_low + slope * (num_tokens - low))


def _check_flow(entries: Mapping[str, Any], *, by_size: tuple[bool, ...]) -> None:
    """Refuses other schedulers, and such whose times are changed in another way than by a shift."""
    check_entries(
        entries,
        needed=("_class_name", "num_train_timesteps", "shift"),
        # Of a shift that hangs on the size of a picture.
        optional=(
            *("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift"),
            "time_shift_type",
        ),
        fixed={
            "_class_name": ("FlowMatchEulerDiscreteScheduler",),
            "invert_sigmas": (False,),
            "shift_terminal": (None,),
            "stochastic_sampling": (False,),
            "use_beta_sigmas": (False,),
            "use_dynamic_shifting": by_size,
            "use_exponential_sigmas": (False,),
            "use_karras_sigmas": (False,),
        },
    )
    check_count("the config's num_train_timesteps", entries["num_train_timesteps"], 2)


def _shift(entries: Mapping[str, Any]) -> float:
    shift = number(entries, "shift", 1.0)
    check_range("the config's shift", shift, 0.0, open_low=True)
    return shift
