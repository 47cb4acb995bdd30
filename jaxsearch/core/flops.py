"""Floating-point operations of a program, counted on its jaxpr before anything is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core as jax_core


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """The floating-point operations of products and convolutions, two for a multiply-add.

    That is the convention of published figures. What goes element by element is not counted: it is
    a per cent or two of a large network. A loop counts as often as it turns, of branches the
    dearest counts; the body of a loop whose length nobody knows counts once.

    Args:
        function: what is counted.
        arguments: its arguments, or their shapes.
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> float:
    return math.fsum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, given = equation.primitive.name, equation.params
    if name in _RULES:
        return _RULES[name](equation)
    inner = [_of(jaxpr) for value in given.values() for jaxpr in jaxprs_in(value)]
    if name == "cond":
        return max(inner, default=0.0)
    if name == "scan":
        return given["length"] * sum(inner)
    if name.startswith("custom_jvp") or name.startswith("custom_vjp"):
        # Their other programs are of the derivative.
        return inner[0] if inner else 0.0
    return sum(inner)


def jaxprs_in(value: Any) -> list[Any]:
    """The programs in a parameter of an equation: one, or several as those of branches."""
    if isinstance(value, jax_core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, jax_core.Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [jaxpr for one in value for jaxpr in jaxprs_in(one)]
    return []


def _product(equation: Any) -> float:
    left = equation.invars[0].aval.shape
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> float:
    kernel, given = equation.invars[1].aval.shape, equation.params
    outer = kernel[given["dimension_numbers"].rhs_spec[0]]
    # Of a dilated image most that the kernel meets are zeros that nobody stored.
    holes = math.prod(given["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / outer / holes


def _attention(equation: Any) -> float:
    """Of a kernel: both of its products. Queries are [n, length, heads, features]."""
    query, key = (one.aval.shape for one in equation.invars[:2])
    return 4.0 * math.prod(query) * key[1]


_RULES: dict[str, Callable[[Any], float]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd_wrapper": _attention,
}
