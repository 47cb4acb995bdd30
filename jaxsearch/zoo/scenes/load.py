"""The scenes as the parts of a search: `denoiser`, `decoder` and the verifiers.

Everything is loaded on the first call and kept: equal arguments give the same objects, so a jitted
program that takes them is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.prediction import from_x0
from jaxsearch.core.process import flow
from jaxsearch.core.types import Array, Decoder, Denoiser, Prediction, Prompts, PyTree, Verifier
from jaxsearch.models.guidance import classifier_free_guidance
from jaxsearch.models.loading import abstract_module, functional, load_safetensors
from jaxsearch.verifiers.embeddings import cosine
from jaxsearch.verifiers.facts import Facts, facts
from jaxsearch.zoo.scenes.captions import read, tokenise, vocabulary
from jaxsearch.zoo.scenes.check import context_of
from jaxsearch.zoo.scenes.network import (
    MOST,
    SIZES,
    Attributes,
    BaseModel,
    Contrastive,
    DenoiserNetwork,
    Taste,
)
from jaxsearch.zoo.scenes.world import SIDE
from jaxsearch.zoo.texts import text_encoder, text_ids

Size = Literal["small", "large"]

WEIGHTS = Path(__file__).parent
"""The folder of the networks' files, `<name>.safetensors`."""

_BUILD: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    **{
        name: functools.partial(lambda size, rngs: BaseModel(size, rngs=rngs), size)
        for name, size in SIZES.items()
    },
    "contrastive": lambda rngs: Contrastive(rngs=rngs),
    "attributes": lambda rngs: Attributes(rngs=rngs),
    "taste": lambda rngs: Taste(rngs=rngs),
}
NAMES = tuple(_BUILD)
"""Of the networks: base models by size, then verifiers."""


def build(name: str, rngs: nnx.Rngs) -> nnx.Module:
    """A network with fresh weights, one of `NAMES`."""
    return _BUILD[name](rngs)


@functools.cache
def network(name: str, method: str = "__call__") -> Callable[..., PyTree]:
    """A network, or one method of it, as a pure function `(params, *inputs) -> output`."""
    return functional(_BUILD[name], method)


@functools.cache
def weights(name: str) -> PyTree:
    """The weights of a network that come with the package."""
    return load_safetensors(abstract_module(_BUILD[name]), WEIGHTS / f"{name}.safetensors")


# ---------------------------------------------------------------------------------------- sampling


@functools.cache
def _predict(name: str) -> Callable[[PyTree, Array, Array, PyTree], Prediction]:
    # Without the text encoder, whose work is done before a search.
    apply = functional(lambda rngs: DenoiserNetwork(SIZES[name], rngs=rngs))

    def predict(params: PyTree, x: Array, t: Array, words: PyTree) -> Prediction:
        return from_x0(x, apply(params, x, t, words), 1.0 - t, t)

    return predict


def _encoder(name: str, params: PyTree) -> Callable[[Sequence[str]], Array]:
    """Captions [P] of known words to features [P, 16, width]."""
    return text_encoder(
        network(name, "words"), params, tokenise, vocab_size=len(vocabulary()) + 1, source=name
    )


def denoiser_with(name: Size, params: PyTree, *, guidance: Array | float = 1.0) -> Denoiser:
    """The denoiser with other weights than the package's: those of a training run."""
    with jax.ensure_compile_time_eval():
        nothing = _encoder(name, params)([""])[0]
    plain = Denoiser(
        apply=_predict(name), process=flow(), shape=(SIDE, SIDE, 3), params=params["denoiser"]
    )
    return classifier_free_guidance(plain, scale=guidance, null=nothing)


@functools.cache
def denoiser(*, size: Size = "large", guidance: float = 2.0) -> Denoiser:
    """Scenes of 48x48 pixels in [-1, 1] from captions, on `process.flow()`.

    Its condition is what its own text encoder makes of captions, [n, 16, width] float32: that of
    `prompts` of the same size.

    Args:
        size: of the model.
        guidance: scale of classifier-free guidance; 1 is none and costs one pass, others cost two.

    Raises:
        ValueError: if there is no model of that size, or the scale is not finite.
    """
    return denoiser_with(_checked(size), weights(size), guidance=guidance)


def prompts_with(name: Size, params: PyTree, texts: Sequence[str]) -> Prompts:
    """Captions as prompts of a base model with these weights; see `prompts`."""
    ids = jnp.asarray(text_ids(texts))
    requests = [read(text) for text in texts]
    context = {key: jnp.asarray(value) for key, value in context_of(requests).items()}
    context["tokens"] = jnp.asarray(tokenise(texts))
    return Prompts(ids, _encoder(name, params)(texts), context)


def prompts(texts: Sequence[str], *, size: Size = "large") -> Prompts:
    """Captions [P] as a base model and the verifiers of scenes read them.

    Raises:
        ValueError: if a text is no caption of this world. The message says why.
    """
    return prompts_with(_checked(size), weights(size), texts)


def _checked(size: Size) -> Size:
    if size not in SIZES:
        raise ValueError(f"size is {size!r}: the package has {' and '.join(SIZES)}")
    return size


@functools.cache
def decoder() -> Decoder:
    """Latents [n,48,48,3] in [-1,1] to images in [0,1]."""

    def apply(params: PyTree, latents: Array) -> Array:
        return jnp.clip((latents.astype(jnp.float32) + 1) / 2, 0.0, 1.0)

    return Decoder(apply=apply)


# --------------------------------------------------------------------------------------- verifiers


@functools.cache
def _alignment() -> Callable[[PyTree, Array, dict[str, Array]], Array]:
    image, caption = network("contrastive", "image"), network("contrastive", "caption")

    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        return cosine(image(params, images), caption(params, context["tokens"]))

    return apply


@facts(Facts((-1, 1), "yes", ("prompt",)))
@functools.cache
def alignment() -> Verifier:
    """How well a scene fits its caption, by the angle between their embeddings (as CLIPScore).

    Learnt from pairs (Radford et al. 2021), so it can be fooled: `exact` cannot.
    """
    return Verifier(
        name="alignment", apply=_alignment(), needs=("tokens",), params=weights("contrastive")
    )


@functools.cache
def _attributes() -> Callable[[PyTree, Array, dict[str, Array]], Array]:
    network_apply = network("attributes")

    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        probability = jax.nn.softmax(network_apply(params, images), axis=-1)
        asked = context["counts"]
        wanted = jax.nn.one_hot(jnp.minimum(asked, MOST), MOST + 1)
        right = jnp.sum(probability * wanted, axis=-1)
        named = (asked > 0).astype(jnp.float32)
        return jnp.sum(right * named, axis=-1) / jnp.sum(named, axis=-1)

    return apply


@facts(Facts((0, 1), "yes", ("prompt",)))
@functools.cache
def attributes() -> Verifier:
    """How probable a network holds it that each kind of thing asked for is there so many times.

    It says nothing of where things are, nor of what was not asked for, and can be fooled.
    """
    return Verifier(
        name="attributes", apply=_attributes(), needs=("counts",), params=weights("attributes")
    )


@functools.cache
def _taste() -> Callable[[PyTree, Array, dict[str, Array]], Array]:
    network_apply = network("taste")

    def apply(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
        return network_apply(params, images)

    return apply


@facts(Facts((-np.inf, np.inf), "yes"))
@functools.cache
def taste() -> Verifier:
    """How pleasant a small network holds a scene to be, whatever was asked for: about 0 to 1.

    It learnt a rule (symmetric and colourful) from scenes alone, and a search goes beyond it.
    """
    return Verifier(name="taste", apply=_taste(), params=weights("taste"))
