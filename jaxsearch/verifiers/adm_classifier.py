"""The classifiers of Dhariwal & Nichol 2021 as verifiers of ImageNet's classes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from jaxsearch.core.checks import check_range
from jaxsearch.core.types import Array, PyTree, Verifier
from jaxsearch.models.adm import AdmConfig
from jaxsearch.models.adm_classifier import PUBLISHED, build, from_guided_diffusion
from jaxsearch.models.layers import compute_type
from jaxsearch.models.loading import abstract_module, functional, loaded_once
from jaxsearch.models.state_dict import load_state_dict
from jaxsearch.verifiers.classifier import classifier_probability
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.verifiers.resize import PATHS, Path, Preprocessing, preprocess
from jaxsearch.verifiers.weights import read_weights

InputRange = Literal["trained", "reference"]
_MOVED = {"trained": (0.5, 0.5), "reference": (0.0, 1.0)}
"""What is subtracted from images in [0, 1], and what they are then divided by."""


@facts(
    Facts(
        (0, 1),
        "path=float",
        ("label",),
        "64x64_classifier.pt (openai/guided-diffusion)",
        "MIT",
    )
)
def adm_classifier(
    *,
    weights: str = "",
    checkpoint: Literal[
        "64x64_classifier", "128x128_classifier", "256x256_classifier"
    ] = "64x64_classifier",
    input_range: InputRange = "trained",
    time: float = 0.0,
    path: Path = "8bit",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Verifier:
    """Rewards images of the class that was asked for: its probability under ADM's classifier.

    Images of another size are resized, bicubic, until their shorter side fits; their middle is
    judged. The weights are under the MIT licence.

    Args:
        weights: the file of the checkpoint, such as `64x64_classifier.pt`.
        checkpoint: which of the published ones it is: the side of its images.
        input_range: `"trained"` gives the network pixels in [-1, 1], as its training did;
            `"reference"` gives it pixels in [0, 1], as the published code of Ramesh and Mardani.
        time: step of diffusion that the images are said to be at, 0 (clean) to 999.
        path: `"8bit"` judges the levels of a picture's file and has no gradient; `"float"` judges
            what the decoder gives, and has one.
        dtype: of weights and computation; probabilities are float32.

    Raises:
        ValueError: if there is no file, or it holds something else; if a setting cannot be.

    Reference:
        Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, 2021.
        Ramesh and Mardani, Test-Time Scaling of Diffusion Models via Noise Trajectory Search, 2025.
    """
    check_range("time", time, 0, 999)
    for setting, value, known in (
        ("checkpoint", checkpoint, PUBLISHED),
        ("input_range", input_range, _MOVED),
        ("path", path, PATHS),
    ):
        if value not in known:
            raise ValueError(f"{setting} is {value!r}: pass {' or '.join(map(repr, known))}")
    config, type_ = PUBLISHED[checkpoint], compute_type(dtype)
    params = _params(str(weights), checkpoint, type_)
    return classifier_probability(
        "adm_classifier",
        logits(config, input_range, float(time), path, type_),
        params,
        num_labels=config.out_channels,
    )


@loaded_once
def _params(weights: str, checkpoint: str, dtype: Any) -> PyTree:
    config = PUBLISHED[checkpoint]
    tensors = read_weights("adm_classifier", weights, f"guided-diffusion's {checkpoint}.pt")
    make = build(config, dtype)
    abstract = abstract_module(make)
    return load_state_dict(abstract, from_guided_diffusion(tensors, config), source=weights)


@functools.cache
def logits(
    config: AdmConfig, input_range: InputRange, time: float, path: Path, dtype: Any
) -> Callable[[PyTree, Array], Array]:
    """`(params, images [n,h,w,c] in [0,1]) -> logits [n,classes]`, once for equal arguments."""
    network = functional(build(config, dtype))
    mean, std = _MOVED[input_range]
    wanted = Preprocessing(config.image_size, config.image_size, "bicubic", (mean,) * 3, (std,) * 3)

    def apply(params: PyTree, images: Array) -> Array:
        x = preprocess(images, wanted, path)
        return network(params, x, jnp.full(len(x), time, jnp.float32))

    return apply
