"""Solvers of the reverse process, one family a file."""

from jaxsearch.solvers.first_order import first_order
from jaxsearch.solvers.flow_sde import flow_sde
from jaxsearch.solvers.heun import heun

SOLVERS = {
    "first_order": first_order,
    "flow_sde": flow_sde,
    "heun": heun,
}

__all__ = ["SOLVERS", "first_order", "flow_sde", "heun"]
