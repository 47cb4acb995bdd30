"""Where the weights that are being read belong: each part is read onto the device that keeps it.

Whoever knows the devices says a rule for all that is loaded meanwhile (`placing`); whoever reads a
file gives what reads a part of it (`array_of`). Between them no network and no family of
checkpoints has to know of devices.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxsearch.core.types import Array

Index = tuple[slice, ...]
"""A part of an array: for each axis where it begins and where it ends, with no steps."""

Rule = Callable[[Any], Sharding]
"""An array, or its shape alone, to how it is divided among devices. Equal rules are equal keys."""


class _Shapes:
    """Stands for a rule where nothing is read and nothing is anywhere."""


SHAPES = _Shapes()
"""A rule under which weights are shapes and types: no file of weights is read, or has to be."""

_RULE: contextvars.ContextVar[Rule | _Shapes | None] = contextvars.ContextVar("rule", default=None)


@contextlib.contextmanager
def placing(rule: Any) -> Iterator[None]:
    """Whatever is loaded meanwhile goes where a rule says.

    Args:
        rule: a `Rule`, `SHAPES`, or None for the default device; what `placement` gave will do.
    """
    token = _RULE.set(rule)
    try:
        yield
    finally:
        _RULE.reset(token)


def placement() -> Hashable:
    """The rule of what is loaded now: a part of the key of whatever keeps weights."""
    return _RULE.get()


def shapes_alone() -> bool:
    """Whether what is loaded now is shapes alone."""
    return _RULE.get() is SHAPES


def array_of(shape: tuple[int, ...], dtype: Any, read: Callable[[Index], np.ndarray]) -> Array:
    """An array that is read where it belongs, one device's part after the other.

    No device and no process ever has more of it than the parts that it keeps, and the host has one
    of these parts at a time.

    Args:
        shape: of the whole.
        dtype: of the whole.
        read: gives a part of it, of its type.

    Raises:
        ValueError: under `SHAPES`, which has no arrays.
    """
    rule = _RULE.get()
    if isinstance(rule, _Shapes):
        raise ValueError("what is loaded as shapes alone has no arrays")
    if rule is None:
        return jnp.asarray(read(tuple(slice(0, size) for size in shape)), dtype)
    sharding = rule(jax.ShapeDtypeStruct(shape, dtype))
    keepers: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None, "of an array with a shape"
        limits = tuple(one.indices(size)[:2] for one, size in zip(index, shape, strict=True))
        keepers.setdefault(limits, []).append(device)
    parts = []
    for limits, devices in keepers.items():
        part = read(tuple(slice(*limit) for limit in limits))
        # It is waited for, so that the host lets go of this part before it reads the next.
        parts += jax.block_until_ready([jax.device_put(part, device) for device in devices])
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)
