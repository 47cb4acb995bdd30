"""Many devices: which of them a search runs on, and what lies where."""

from jaxsearch.parallel.devices import particle_mesh, replicated

__all__ = ["particle_mesh", "replicated"]
