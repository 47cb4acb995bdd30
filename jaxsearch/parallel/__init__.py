"""Many devices: which of them a search runs on, and what lies where."""

from jaxsearch.parallel.devices import (
    divided,
    num_model_devices,
    num_particle_devices,
    particle_mesh,
    replicated,
)

__all__ = ["divided", "num_model_devices", "num_particle_devices", "particle_mesh", "replicated"]
