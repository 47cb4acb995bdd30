"""Blocks of one structure run by one loop: compile time does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxsearch.core.types import PyTree


class Stacked(nnx.Module):
    """`num` blocks after each other, each with weights of its own on a first axis of `block`'s.

    In a checkpoint they are a list: block `i` of `blocks` has the keys `blocks.{i}.`.

    Args:
        build: makes one block, `(rngs) -> (x, *inputs) -> x`.
        num: how many, at least 1.
        remat: whether a gradient computes each block again instead of keeping what is inside it.
        rngs: of all weights.
    """

    def __init__(
        self,
        build: Callable[[nnx.Rngs], nnx.Module],
        num: int,
        *,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.num, self.remat = num, remat
        keys = jax.random.split(rngs.params(), num)
        self.block = nnx.vmap(lambda key: build(type(rngs)(key)))(keys)

    def __call__(self, x: PyTree, *inputs: Any) -> Any:
        """`x`, an array or a tree of such, through all blocks; all get the same further inputs."""
        return self.watched(x, lambda x: None, *inputs)[0]

    def watched(
        self, x: PyTree, watch: Callable[[Any], PyTree], *inputs: Any
    ) -> tuple[Any, PyTree]:
        """`x` through all blocks, and `watch(x)` after each of them, on a first axis [num, ...]."""
        graph, weights = nnx.split(self.block)

        def body(x: PyTree, weights: Any) -> tuple[PyTree, PyTree]:
            x = nnx.merge(graph, weights)(x, *inputs)
            return x, watch(x)

        return jax.lax.scan(jax.checkpoint(body) if self.remat else body, x, weights)
