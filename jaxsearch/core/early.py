"""The clean estimate that a sampler had on its way, kept for verifiers that ask for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.noise import select
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import (
    ESTIMATE,
    Array,
    Decoder,
    PyTree,
    Solver,
    StepResult,
    Verifier,
)


class Kept(NamedTuple):
    """The memory of a solver that keeps an estimate."""

    solver: PyTree  # [n, ...] what the solver itself remembers
    x0: Array  # [n, *E] the clean estimate


@reused
def keep_estimate(solver: Solver, *, level: float) -> Solver:
    """The same sampler, which remembers the clean estimate it had at a noise level.

    Verifiers that need `"estimate"` find it, decoded, in their context. It is that of the solver
    step which begins nearest to `level`; of a partial sample that has not come so far, its latest.

    Args:
        solver: any.
        level: noise-to-signal ratio `sigma / alpha`, above 0.

    Raises:
        ValueError: if the level is no positive number.
    """
    check_range("level", level, 0.0, open_low=True)
    at = int(np.argmin(np.abs(np.log(solver.schedule.levels) - np.log(level))))
    return _keeping(solver, at)


def _keeping(solver: Solver, at: int) -> Solver:
    def step(denoise, x: Array, index: Array, noise: Array, memory: Kept) -> StepResult:
        moved = solver.step(denoise, x, index, noise, memory.solver)
        kept = Kept(moved.memory, select(index <= at, moved.x0, memory.x0))
        return StepResult(moved.x, moved.x0, kept)

    def memory(shape: tuple[int, ...]) -> Kept:
        return Kept(solver.memory(shape), jnp.zeros(shape))

    quiet = None if solver.quiet is None else _keeping(solver.quiet, at)
    return dataclasses.replace(solver, step=step, memory=memory, quiet=quiet)


def with_estimate(context: dict[str, Array], memory: PyTree, decoder: Decoder) -> dict[str, Array]:
    """The context [n, ...] with the estimate of particles of that memory, where they keep one."""
    if not isinstance(memory, Kept):
        return context
    return {**context, ESTIMATE: decoder(memory.x0)}


def renewed(fresh: PyTree, memory: PyTree) -> PyTree:
    """What is remembered of particles that were renoised: nothing but the estimate.

    One that was taken back behind its level makes another on its way.
    """
    return fresh._replace(x0=memory.x0) if isinstance(memory, Kept) else fresh


def num_decodes(verifiers: Sequence[Verifier]) -> int:
    """How many latents are decoded for one candidate that these judge."""
    return 2 if any(ESTIMATE in verifier.needs for verifier in verifiers) else 1
