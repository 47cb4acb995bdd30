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
from jaxsearch.models.placing import Index, array_of, shapes_alone
from jaxsearch.models.stacked import Stacked
from jaxsearch.models.stored import Tensor


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
    tensors: Mapping[str, Tensor],
    *,
    source: str | os.PathLike[str],
) -> PyTree:
    """Takes the parameters of a module from a state dict that must match it exactly.

    They go where `placing` says: where devices share them, each part is read onto its own device,
    and of a tensor that is still in its file no more than that.

    Args:
        module: says which keys and shapes there must be, and which type each tensor becomes;
            abstract (`nnx.eval_shape`) or real. It is not changed.
        tensors: key -> array in PyTorch's layout, or a tensor that is still in its file. A 1x1
            convolution may stand for a linear layer.
        source: where they are from, for messages.

    Returns:
        Parameters for `nnx.merge`: arrays on the default device, or where `placing` says; under
        `SHAPES` those of the abstract module, and nothing is compared.

    Raises:
        ValueError: if a key is missing or unknown, or a tensor has another shape, is of integers
            where floats are wanted, or has values that are not finite. The message names source,
            keys and shapes.
    """
    if shapes_alone():
        return parameters(module)
    _check_fit(module, tensors, source)
    structure = jax.tree.structure(parameters(module))
    # Whoever loads inside a traced function gets arrays all the same, fit to be kept in a cache.
    with jax.ensure_compile_time_eval():
        taken = [_take(place, tensors, source) for place in _places(module)]
    return jax.tree.unflatten(structure, taken)


def check_state_dict(
    module: nnx.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str | os.PathLike[str],
) -> None:
    """Refuses a state dict that does not match a module exactly.

    The arguments are those of `load_state_dict`.

    Raises:
        ValueError: as `load_state_dict`.
    """
    _check_fit(module, tensors, source)
    for place in _places(module):
        for key in place.keys:
            _check_finite(np.asarray(tensors[key]), place, key, source)


def _check_fit(
    module: nnx.Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]
) -> None:
    """Refuses keys, shapes and types that do not fit; no number of a tensor is looked at."""
    shapes = wanted_shapes(module)
    found = {key: _without_ones(tensor.shape, shapes.get(key)) for key, tensor in tensors.items()}
    check_fit(shapes, found, module, source)
    for place in _places(module):
        for key in place.keys if _is_floating(place.dtype) else ():
            if not _is_floating(tensors[key].dtype):
                raise ValueError(
                    f"{source}: {key} is stored as {tensors[key].dtype}, not as floats"
                )


def _is_floating(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _check_finite(
    part: np.ndarray, place: _Place, key: str, source: str | os.PathLike[str]
) -> None:
    if _is_floating(place.dtype) and not np.isfinite(part).all():
        raise ValueError(f"{source}: {key} has values that are not finite")


def _take(place: _Place, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> Array:
    """The parameter of a place, read where it belongs."""
    axes = place.axes or tuple(range(len(place.shape)))
    whole = tuple(place.shape[axis] for axis in axes)

    def read(index: Index) -> np.ndarray:
        blocks = index[0] if place.stacked else slice(0, 1)
        inner = index[1:] if place.stacked else index
        stored = [slice(0, 1)] * len(axes)
        for axis, one in zip(axes, inner, strict=True):
            stored[axis] = one
        part = np.empty([one.stop - one.start for one in index], place.dtype)
        for row, key in zip(part if place.stacked else [part], place.keys[blocks], strict=True):
            tensor = tensors[key]
            ones = [slice(0, 1)] * (tensor.ndim - len(axes))  # of a 1x1 convolution
            values = np.asarray(tensor[(*stored, *ones)])
            _check_finite(values, place, key, source)
            # What numbers become is decided here, where no more than a part of them is there.
            row[...] = values.reshape([one.stop - one.start for one in stored]).transpose(axes)
        return part

    return array_of((len(place.keys), *whole) if place.stacked else whole, place.dtype, read)


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


def _without_ones(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape of a 1x1 convolution's weight as that of a matrix, where a matrix is wanted."""
    if wanted is not None and len(wanted) == 2 and shape[2:].count(1) == len(shape) - 2:
        return shape[:2]
    return shape
