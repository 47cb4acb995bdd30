"""A mesh of the devices that a search runs on."""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsearch.core.checks import check_count
from jaxsearch.core.evaluate import PARTICLE_AXIS

Tree = TypeVar("Tree")


def particle_mesh(num: int | None = None) -> Mesh | None:
    """A mesh with an axis of particles over this process's devices; None where it is one.

    Args:
        num: how many devices; None takes all accelerators, and of a CPU the one.

    Raises:
        ValueError: if there are not so many.
    """
    devices = jax.local_devices()
    if num is None:
        num = 1 if devices[0].platform == "cpu" else len(devices)
    check_count("devices", num)
    if num > len(devices):
        raise ValueError(f"devices is {num}: this machine has {len(devices)}, take no more")
    if num == 1:
        return None
    return Mesh(np.asarray(devices[:num]), (PARTICLE_AXIS,), axis_types=(AxisType.Auto,))


def replicated(tree: Tree, mesh: Mesh | None) -> Tree:
    """Arrays on all devices of a mesh, so that no call has to take them there again."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
