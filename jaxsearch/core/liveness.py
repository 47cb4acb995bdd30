"""Bytes that a program holds at once, counted on its jaxpr before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxsearch.core.flops import jaxprs_in


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """The most bytes of intermediate values and results that are alive at once.

    Equations run in their order, a value is there from the equation that makes it to the last that
    reads it, and one that goes element by element writes over an argument that nobody reads any
    more. A compiler that fuses holds less, one that reorders more. Arguments are not counted.

    Args:
        function: what is counted.
        arguments: its arguments, or their shapes.
    """
    return _peak(jax.make_jaxpr(function)(*arguments).jaxpr)


def _size(variable: Any) -> int:
    aval = variable.aval
    shape = getattr(aval, "shape", ())
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(shape) * itemsize


def _peak(jaxpr: Any) -> int:
    last: dict[Any, int] = {}
    for index, equation in enumerate(jaxpr.eqns):
        for variable in equation.invars:
            if not hasattr(variable, "val"):  # a literal
                last[variable] = index
    kept = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    made: dict[Any, int] = {}
    alive = peak = 0
    for index, equation in enumerate(jaxpr.eqns):
        results = sum(_size(variable) for variable in equation.outvars)
        dying = [
            variable
            for variable in dict.fromkeys(v for v in equation.invars if not hasattr(v, "val"))
            if variable in made and last[variable] == index and variable not in kept
        ]
        freed = sum(made[variable] for variable in dying)
        inner = max(
            (_peak(one) for v in equation.params.values() for one in jaxprs_in(v)), default=0
        )
        if inner:  # a result is made inside
            inner = max(inner - results, 0)
        over = min(freed, results) if _by_element(equation) else 0
        peak = max(peak, alive + results + inner - over)
        alive += results - freed
        made |= {variable: _size(variable) for variable in equation.outvars}
        for variable in equation.outvars:
            if variable not in last and variable not in kept:  # nobody reads it
                alive -= made.pop(variable)
    return peak


def _by_element(equation: Any) -> bool:
    """Whether an equation makes each number of its result of those at the same place."""
    if equation.primitive.name in _MOVES or any(
        True for v in equation.params.values() for _ in jaxprs_in(v)
    ):
        return False
    shapes = {getattr(v.aval, "shape", ()) for v in equation.invars if getattr(v.aval, "shape", ())}
    return len(equation.outvars) == 1 and shapes <= {equation.outvars[0].aval.shape}


_MOVES = ("dot_general", "conv_general_dilated", "transpose", "gather", "sort", "rev", "cumsum")
