"""The scenes as the parts of a search: `denoiser`, `decoder` and the verifiers.

Everything is loaded on the first call and kept: equal arguments give the same objects, so a jitted
program that takes them is compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from flax import nnx

from jaxsearch.core.types import PyTree
from jaxsearch.models.loading import abstract_module, functional, load_safetensors
from jaxsearch.zoo.scenes.network import SIZES, Aesthetic, Attributes, BaseModel, Contrastive

WEIGHTS = Path(__file__).parent
"""The folder of the networks' files, `<name>.safetensors`."""

_BUILD: dict[str, Callable[[nnx.Rngs], nnx.Module]] = {
    **{
        name: functools.partial(lambda size, rngs: BaseModel(size, rngs=rngs), size)
        for name, size in SIZES.items()
    },
    "contrastive": lambda rngs: Contrastive(rngs=rngs),
    "attributes": lambda rngs: Attributes(rngs=rngs),
    "aesthetic": lambda rngs: Aesthetic(rngs=rngs),
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
