"""A mesh of the devices that a search runs on, and what lies where on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch.core.checks import check_count
from jaxsearch.core.evaluate import PARTICLE_AXIS
from jaxsearch.models.placing import placing

Tree = TypeVar("Tree")

MODEL_AXIS = "model"
_SMALLEST = 2**12
"""Numbers of an array that is worth dividing."""


def particle_mesh(num: int | None = None, *, model: int = 1) -> Mesh | None:
    """A mesh with an axis of particles over this process's devices; None where it is one.

    Args:
        num: how many devices; None takes all accelerators, and of a CPU as many as `model`.
        model: devices that share one copy of the weights, an axis of its own where there are more
            than one. They compute the same particles together.

    Raises:
        ValueError: if there are not so many, or they cannot be divided so.
    """
    devices = jax.local_devices()
    check_count("model_devices", model)
    if num is None:
        num = model if devices[0].platform == "cpu" else len(devices)
    check_count("devices", num)
    if num > len(devices):
        raise ValueError(f"devices is {num}: this machine has {len(devices)}, take no more")
    if num % model:
        raise ValueError(f"model_devices is {model}, which does not divide the {num} devices")
    if num == 1:
        return None
    return mesh_over(devices[:num], model=model)


def mesh_over(devices: Any, *, model: int = 1) -> Mesh:
    """The mesh of these devices; arguments as for `particle_mesh`."""
    shape = {PARTICLE_AXIS: len(devices) // model}
    if model > 1:  # those that share weights are neighbours
        shape[MODEL_AXIS] = model
    grid = np.asarray(devices).reshape(tuple(shape.values()))
    return Mesh(grid, tuple(shape), axis_types=(AxisType.Auto,) * len(shape))


def num_particle_devices(mesh: Mesh | None) -> int:
    """Devices, or groups that share weights, among which particles are divided."""
    return 1 if mesh is None else mesh.shape[PARTICLE_AXIS]


def num_model_devices(mesh: Mesh | AbstractMesh | None) -> int:
    """Devices that share one copy of the weights."""
    return 1 if mesh is None else mesh.shape.get(MODEL_AXIS, 1)


def replicated(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays on all devices of a mesh, so that no call has to take them there again."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def divided(tree: Tree, mesh: Mesh | None) -> Tree:
    """Weights on the devices of a mesh, each array in as many parts as its model axis has devices.

    One rule for all networks (`part_of`); without a model axis everything is whole on each device.
    What passes between devices while they compute is the compiler's choice, and sums of parts
    round otherwise than whole ones.
    """
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: jax.device_put(leaf, part_of(leaf, mesh)), tree)


class _Divided(NamedTuple):
    """`part_of` on a mesh; the same key for equal meshes."""

    mesh: Mesh

    def __call__(self, leaf: Any) -> NamedSharding:
        return part_of(leaf, self.mesh)


@contextlib.contextmanager
def loading_onto(mesh: Mesh | None) -> Iterator[None]:
    """Weights that are loaded meanwhile are read as `divided` would place them.

    So no device has the whole of what devices share, and the host no more than a part of a tensor
    at a time. Where nothing is shared they go to the default device.
    """
    with placing(_Divided(mesh) if mesh is not None and num_model_devices(mesh) > 1 else None):
        yield


def part_of(leaf: Any, mesh: Mesh | AbstractMesh) -> NamedSharding:
    """How an array, or its shape alone, is divided among the devices that share weights.

    Along the longer of its last two axes that they divide: what goes into a layer or what comes
    out. Axes before those are of a kernel's window, or count the layers of a stack, each of which
    is wanted whole in its turn. Vectors and small arrays are on all devices.
    """
    parts = num_model_devices(mesh)
    last = range(max(leaf.ndim - 2, 0), leaf.ndim)
    axes = [axis for axis in last if leaf.shape[axis] % parts == 0]
    if parts == 1 or leaf.ndim < 2 or leaf.size < _SMALLEST or not axes:
        return NamedSharding(mesh, PartitionSpec())
    longest = max(axes, key=lambda axis: leaf.shape[axis])
    names = (MODEL_AXIS if axis == longest else None for axis in range(leaf.ndim))
    return NamedSharding(mesh, PartitionSpec(*names))
