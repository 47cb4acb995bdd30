"""Searchers whose continuous settings are arguments of a program, so that all values share it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.types import Array, Searcher


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("numbers", "inner"),
    meta_fields=("factory", "fixed"),
)
@dataclasses.dataclass(frozen=True)
class Traced:
    """A searcher by its factory and settings: a pytree, which a program may take as an argument.

    Attributes:
        factory: that makes it.
        fixed: the settings that decide on the shape of the program.
        numbers: the others, [] float32 each.
        inner: what the factory takes before its settings, for one that wraps another searcher.
    """

    factory: Callable[..., Searcher]
    fixed: tuple[tuple[str, Hashable], ...]
    numbers: dict[str, Array | np.float32]
    inner: Traced | None = None

    def __call__(self) -> Searcher:
        """The searcher."""
        before = () if self.inner is None else (self.inner(),)
        return self.factory(*before, **dict(self.fixed), **self.numbers)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Fixed:
    """A searcher as what a program is compiled for, in the form of `Traced`."""

    searcher: Searcher

    def __call__(self) -> Searcher:
        """The searcher."""
        return self.searcher


def traced(
    factory: Callable[..., Searcher], inner: Traced | None = None, /, **settings: Any
) -> Traced:
    """A searcher of which two with other numbers share one compiled program.

    `search_in_chunks` takes it in the place of a searcher. Its result is that of the searcher but
    for rounding.

    Args:
        factory: of the searcher, such as `epsilon_greedy`.
        inner: the searcher that it wraps, as `early_stop` does.
        settings: of the factory. Floats become arguments of the program, but for those that the
            factory wants to look at.

    Raises:
        ValueError: if the factory refuses a setting.
    """
    one = Traced(factory, (), {}, inner)
    fixed = {name: _hashable(value) for name, value in settings.items()}
    one = dataclasses.replace(one, fixed=tuple(fixed.items()))
    one()  # refuses what it refuses
    for name, value in settings.items():
        if isinstance(value, float) and _traceable(one, name):
            rest = tuple(pair for pair in one.fixed if pair[0] != name)
            # Of NumPy, so that they can be looked at even while something else is traced.
            numbers = {**one.numbers, name: np.float32(value)}
            one = dataclasses.replace(one, fixed=rest, numbers=numbers)
    return one


def _traceable(one: Traced, name: str) -> bool:
    fixed = dict(one.fixed)
    del fixed[name]

    def make(number: Array) -> int:
        return one.factory(
            *(() if one.inner is None else (one.inner(),)), **{**fixed, name: number}
        ).rank

    try:
        jax.eval_shape(make, jax.ShapeDtypeStruct((), jnp.float32))
    except (TypeError, ValueError):  # its value was accepted, so it is being looked at
        return False
    return True


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
