"""Gradients of scores with respect to the noises that samples are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxsearch.core.noise import realise
from jaxsearch.core.types import Array, GradientOf, Proposal, PyTree


class Gradient(NamedTuple):
    """What is differentiated, with respect to what.

    Attributes:
        of: the noises.
        score: `outputs of finish [n, ...] -> [n]`; a row's own output alone decides on its score.
        scale: by what the initial noise is multiplied to make the first latent.
    """

    of: GradientOf
    score: Callable[[PyTree], Array]
    scale: float


class Outcome(NamedTuple):
    """Particles moved on, and what that gave and cost."""

    child: PyTree  # [n, ...]
    output: PyTree  # [n, ...]
    passes: Array  # [n] int32
    gradient: Array | None  # [n, 1, *E] or [n, S + 1, *E]; None where none is wanted


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def differentiable(value: Array, source: Array, what: str) -> Array:
    """The value itself, refused where a gradient is wanted and none can come through it.

    What only rounds, counts or compares has a gradient of zero wherever it has one, so that an
    ascent would stand still and say nothing of it.

    Args:
        value: what was made of the source.
        source: what does have a gradient: JAX asks nothing of a function none of whose arguments
            has one.
        what: has made it, for the message.

    Raises:
        ValueError: while it is differentiated, if the value is constant to JAX.
    """
    del source, what
    return value


def _pass_on(
    what: str, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    if isinstance(tangents[0], SymbolicZero):
        raise ValueError(
            f"{what} has no gradient (it rounds, counts, compares or runs outside the program): "
            "search with zero_order or best_of_n, which need none"
        )
    return primals[0], tangents[0]


differentiable.defjvp(_pass_on, symbolic_zeros=True)


def differentiate(
    gradient: Gradient, move: Callable[[Proposal], tuple[PyTree, PyTree, Array]], part: Proposal
) -> Outcome:
    """Moves particles [n] and differentiates each one's score by the noises that it came from.

    Row 0 of a gradient is the initial noise's, row `i + 1` that of the i-th injected one. Zero
    where a solver makes no use of a noise.
    """
    x, value = part.parent.x, part.value
    if gradient.of == "all" and value is None:
        value = realise(part.noise, x.shape[1:])

    def total(x: Array, value: Array | None) -> tuple[Array, tuple[PyTree, PyTree, Array]]:
        moved = move(part._replace(parent=part.parent._replace(x=x), value=value))
        # Rows do not see each other: the gradient of the sum is that of every row's own score.
        return jnp.sum(gradient.score(moved[1])), moved

    by = (0,) if gradient.of == "initial" else (0, 1)
    (by_x, *by_values), (child, output, passes) = jax.grad(total, by, has_aux=True)(x, value)
    rows = [gradient.scale * by_x[:, None], *by_values]
    return Outcome(child, output, passes, jnp.concatenate(rows, axis=1))
