"""Many devices: which of them a search runs on, and what lies where."""

from jaxsearch.parallel.devices import (
    divided,
    loading_onto,
    num_model_devices,
    num_particle_devices,
    particle_mesh,
    replicated,
)

__all__ = [
    "divided",
    "loading_onto",
    "num_model_devices",
    "num_particle_devices",
    "particle_mesh",
    "replicated",
]
