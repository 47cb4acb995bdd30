"""The digits as the parts of a search: `denoiser`, `decoder`, `classifier` and `judge`.

Everything is loaded on the first call and kept: equal arguments give the same objects, so a jitted
program that takes them is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.checks import check_count
from jaxsearch.core.types import Array, Decoder, Denoiser, PyTree, Verifier
from jaxsearch.models.edm import edm_denoiser
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.loading import abstract_module, functional, load_safetensors
from jaxsearch.verifiers.classifier import classifier_probability
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.digits.network import (
    NO_LABEL,
    SIDE,
    SIGMA_DATA,
    Classifier,
    DenoiserNetwork,
    Judge,
)

WEIGHTS = Path(__file__).parent
"""The folder of `denoiser.safetensors`, `classifier.safetensors` and `judge.safetensors`."""


_CLASSES = {"denoiser": DenoiserNetwork, "classifier": Classifier, "judge": Judge}


def build(name: str, rngs: nnx.Rngs) -> nnx.Module:
    """A network with fresh weights: "denoiser", "classifier" or "judge"."""
    return _CLASSES[name](rngs=rngs)


@functools.cache
def network(name: str, method: str = "__call__") -> Callable[..., Array]:
    """A network, or one method of it, as a pure function `(params, *inputs) -> output`."""
    return functional(functools.partial(build, name), method)


def abstract(name: str) -> nnx.Module:
    """A network without weights: what a file of weights has to fit."""
    return abstract_module(functools.partial(build, name))


@functools.cache
def weights(name: str) -> PyTree:
    """The weights of a network that come with the package."""
    return load_safetensors(abstract(name), WEIGHTS / f"{name}.safetensors")


def denoiser_with(params: PyTree) -> Denoiser:
    """The denoiser with other weights than the package's: those of a training run."""
    return edm_denoiser(network("denoiser"), params, shape=(SIDE, SIDE, 1), sigma_data=SIGMA_DATA)


@functools.cache
def denoiser(*, guidance: float = 1.0) -> Denoiser:
    """Handwritten digits of 8x8 grey pixels in [-1, 1], on `process.edm()`.

    Its condition is the label, int32 [n]: 0 to 9, or 10 (`NO_LABEL`) for any digit.

    Args:
        guidance: scale of classifier-free guidance; 1 is none and costs one pass, others cost two.
    """
    return classifier_free_guidance(
        denoiser_with(weights("denoiser")), scale=guidance, null=np.int32(NO_LABEL)
    )


@functools.cache
def decoder(*, enlarge: int = 4) -> Decoder:
    """Latents [n,8,8,1] in [-1,1] to images [n,8*enlarge,8*enlarge,1] in [0,1], pixels repeated.

    Raises:
        ValueError: if `enlarge` is no whole number from 1.
    """
    check_count("enlarge", enlarge)

    def apply(params: PyTree, latents: Array) -> Array:
        images = jnp.clip((latents.astype(jnp.float32) + 1) / 2, 0.0, 1.0)
        return jnp.repeat(jnp.repeat(images, enlarge, axis=1), enlarge, axis=2)

    return Decoder(apply=apply)


@facts(Facts((0, 1), "yes", ("label",)))
@functools.cache
def classifier() -> Verifier:
    """The guide: probability of `context["label"]` under a perceptron.

    It takes decoded images of any enlargement, grey or RGB.
    """
    apply = network("classifier")
    return classifier_probability("classifier", apply, weights("classifier"), num_labels=10)


@facts(Facts((0, 1), "yes", ("label",)))
@functools.cache
def judge() -> Verifier:
    """The reporter: as `classifier`, but another network that learnt from other digits.

    Never guide a search by it: it is there to say what a guided search is worth.
    """
    apply = network("judge")
    return classifier_probability("judge", apply, weights("judge"), num_labels=10)
