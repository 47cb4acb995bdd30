"""Noises of recipes beside JAX's own Gaussians: time for each number, and of compiling.

    python -m experiments.benchmarks.gaussians [--repeats 9]    # ten seconds on 2 CPU cores

Both draw the noises of a batch in a compiled loop, of new keys each turn, and run in turn in one
process. The fastest of `repeats` counts, since other work on the machine only ever adds time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.overhead import seconds
from jaxsearch.core.noise import fresh, realise
from jaxsearch.core.random import fold_in
from jaxsearch.core.types import Array

SHAPES = {"digits": (8, 8, 1), "scenes": (48, 48, 3)}
BATCHES = {"digits": (576, 2880), "scenes": (128,)}
TURNS = 20


def of_recipes(keys: Array, scale: Array, shape: tuple[int, ...]) -> Array:
    """Noises [K, *E] of keys [K], as the engine draws them: coefficients are data there too."""
    recipes = fresh(keys, 1)
    return realise(recipes._replace(coefs=scale * recipes.coefs), shape)


def of_jax(keys: Array, scale: Array, shape: tuple[int, ...]) -> Array:
    """The same by `jax.random.normal`."""
    return scale * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def program(draw: Callable[..., Array], shape: tuple[int, ...]) -> jax.stages.Wrapped:
    """The sum of several draws, `(keys [K], scale, turns) -> [K, *E]`."""

    @jax.jit
    def run(keys: Array, scale: Array, turns: Array) -> Array:
        def add(turn: Array, total: Array) -> Array:
            return total + draw(fold_in(keys, turn), scale, shape)

        return jax.lax.fori_loop(0, turns, add, jnp.zeros((len(keys), *shape)))

    return run


def main(repeats: int = 9) -> None:
    """Prints the table.

    Args:
        repeats: runs of each, of which the fastest counts.
    """
    table = Table(title=f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    table.add_column("noises")
    for column in ("ns a number", "JAX ns", "JAX / here", "compile s", "JAX compile s"):
        table.add_column(column, justify="right")
    for model, shape in SHAPES.items():
        for batch in BATCHES[model]:
            keys = jax.random.split(jax.random.key(0), batch)
            arguments = (keys, jnp.float32(1.0), jnp.int32(TURNS))
            lowered = [program(draw, shape).lower(*arguments) for draw in (of_recipes, of_jax)]
            compiling, programs = [], []
            for one in lowered:
                begun = time.perf_counter()
                programs.append(one.compile())
                compiling.append(f"{time.perf_counter() - begun:.2f}")
            turns = [[seconds(run, *arguments) for run in programs] for _ in range(repeats)]
            here, there = (
                1e9 * min(column) / (TURNS * batch * math.prod(shape))
                for column in zip(*turns, strict=True)
            )
            figures = (f"{here:.1f}", f"{there:.1f}", f"{there / here:.1f}", *compiling)
            table.add_row(f"{batch} of {model}", *figures)
    Console(width=100).print(table)


if __name__ == "__main__":
    auto_cli(main)
