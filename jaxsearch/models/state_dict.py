"""One strict way from PyTorch's state dicts to the parameters of `flax.nnx` modules.

A module's attributes are named as the checkpoint's keys are, so its layers say what is wanted:

    layer of the module      key              stored as               becomes
    Linear                   weight           [out, in] (1x1 conv.)   kernel [in, out]
    Conv                     weight           [out, in, h, w]         kernel [h, w, in, out]
    GroupNorm, LayerNorm     weight           [c]                     scale [c]
    Embed                    weight           [num, features]         embedding [num, features]
    Stacked                  0.*, 1.*, ...    a list of blocks        block.*, on a first axis
    anything else            the same         as it is                the same
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsearch.core.types import Array, PyTree
from jaxsearch.models.loading import check_fit, parameters
from jaxsearch.models.stacked import Stacked


class _Rule(NamedTuple):
    """How PyTorch stores a parameter of a layer."""

    key: str
    axes: tuple[int, ...] | None = None  # the stored axes in the order that the layer has them


_RULES: dict[type[nnx.Module], dict[str, _Rule]] = {
    nnx.Linear: {"kernel": _Rule("weight", (1, 0))},
    nnx.Conv: {"kernel": _Rule("weight", (2, 3, 1, 0))},
    nnx.GroupNorm: {"scale": _Rule("weight")},
    nnx.LayerNorm: {"scale": _Rule("weight")},
    nnx.RMSNorm: {"scale": _Rule("weight")},
    nnx.Embed: {"embedding": _Rule("weight")},
}


def load_state_dict(
    module: nnx.Module,
    tensors: Mapping[str, np.ndarray],
    *,
    source: str | os.PathLike[str],
) -> PyTree:
    """Takes the parameters of a module from a state dict that must match it exactly.

    Args:
        module: says which keys and shapes there must be, and which type each tensor becomes;
            abstract (`nnx.eval_shape`) or real. It is not changed.
        tensors: key -> array in PyTorch's layout. A 1x1 convolution may stand for a linear layer.
        source: where they are from, for messages.

    Returns:
        Parameters for `nnx.merge`: arrays on the default device.

    Raises:
        ValueError: if a key is missing or unknown, or a tensor has another shape, is of integers
            where floats are wanted, or has values that are not finite. The message names source,
            keys and shapes.
    """
    found = check_state_dict(module, tensors, source=source)

    def take(place: _Place) -> Array:
        parts = [found[key] for key in place.keys]
        if place.axes is not None:
            parts = [part.transpose(place.axes) for part in parts]
        return jnp.asarray(np.stack(parts) if place.stacked else parts[0], place.dtype)

    structure = jax.tree.structure(parameters(module))
    # Whoever loads inside a traced function gets arrays all the same, fit to be kept in a cache.
    with jax.ensure_compile_time_eval():
        taken = [take(place) for place in _places(module)]
    return jax.tree.unflatten(structure, taken)


def check_state_dict(
    module: nnx.Module,
    tensors: Mapping[str, np.ndarray],
    *,
    source: str | os.PathLike[str],
) -> dict[str, np.ndarray]:
    """Refuses a state dict that does not match a module exactly.

    The arguments are those of `load_state_dict`.

    Returns:
        The tensors in the shapes that the module's layers want, still in PyTorch's layout.

    Raises:
        ValueError: as `load_state_dict`, and if a tensor has values that are not finite.
    """
    places = _places(module)
    shapes = wanted_shapes(module)
    found = {key: _without_ones(tensor, shapes.get(key)) for key, tensor in tensors.items()}
    check_fit(shapes, {key: tensor.shape for key, tensor in found.items()}, module, source)
    for place in places:
        if not jnp.issubdtype(place.dtype, jnp.floating):
            continue
        for key in place.keys:
            if not jnp.issubdtype(found[key].dtype, jnp.floating):
                raise ValueError(f"{source}: {key} is stored as {found[key].dtype}, not as floats")
            if not np.isfinite(found[key]).all():
                raise ValueError(f"{source}: {key} has values that are not finite")
    return found


def wanted_shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of the state dict that fits a module, abstract or real."""
    return {key: place.shape for place in _places(module) for key in place.keys}


class _Place(NamedTuple):
    """Where a parameter stands in a state dict."""

    keys: tuple[str, ...]  # of all blocks, where they are stacked
    shape: tuple[int, ...]  # as it is stored
    axes: tuple[int, ...] | None
    stacked: bool
    dtype: Any  # that it becomes


def _places(module: nnx.Module) -> list[_Place]:
    """The places of a module's parameters, in their order."""
    layers = dict(nnx.iter_modules(module))
    leaves, _ = jax.tree_util.tree_flatten_with_path(parameters(module))
    return [_place(layers, tuple(part.key for part in path), leaf) for path, leaf in leaves]


def _place(layers: Mapping[tuple, nnx.Module], path: tuple, leaf: Any) -> _Place:
    """The place of the parameter at a path of attributes."""
    layer = layers.get(path[:-1])
    rules = {} if layer is None else _RULES.get(type(layer), {})
    rule = rules.get(path[-1], _Rule(path[-1]))
    shape, blocks = tuple(leaf.shape), None
    names: list[str] = []
    for depth, name in enumerate((*path[:-1], rule.key)):
        stack = layers.get(path[:depth])
        if isinstance(stack, Stacked) and name == "block":
            blocks, shape = stack.num, shape[1:]
            names.append("{block}")
        else:
            names.append(str(name))
    if rule.axes is not None:
        shape = tuple(shape[rule.axes.index(axis)] for axis in range(len(shape)))
    key = ".".join(names)
    keys = (key,) if blocks is None else tuple(key.format(block=i) for i in range(blocks))
    return _Place(keys, shape, rule.axes, blocks is not None, leaf.dtype)


def _without_ones(tensor: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """The weight of a 1x1 convolution as a matrix, where a matrix is wanted."""
    if shape is not None and len(shape) == 2 and tensor.shape[2:].count(1) == tensor.ndim - 2:
        return tensor.reshape(tensor.shape[:2])
    return tensor
