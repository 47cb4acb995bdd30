"""Best-of-N: independent samples, the best one kept. Also called random search or rejection."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsearch.core.noise import fresh, require_noise, trajectory_key
from jaxsearch.core.types import (
    Array,
    Evaluation,
    Noise,
    NoiseSpace,
    Proposal,
    PyTree,
    Searcher,
    Stage,
)


def best_of_n(*, candidates: int = 4, share_initial_noise: bool = False) -> Searcher:
    """Draws whole samples independently and keeps the best.

    Random search of Ma et al. 2025 (section 3.2); rejection sampling of Ramesh & Mardani 2025, whose
    text and EDM code draw one initial noise for all candidates and vary only what is injected later
    (`share_initial_noise`). One candidate is plain sampling.

    Args:
        candidates: N, samples per prompt, at least 1.
        share_initial_noise: whether all candidates start from the same initial noise.

    Raises:
        ValueError: if `candidates` is below 1; on a solver without noise, if the initial noise is
            shared.
    """
    if candidates < 1:
        raise ValueError(f"candidates is {candidates}: best_of_n draws at least 1 sample")

    def init_fn(space: NoiseSpace, key: Array) -> PyTree:
        del space
        return key

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        if share_initial_noise:
            require_noise(space, "best_of_n with share_initial_noise")

        def draw_rows(key: Array, candidate: Array) -> Noise:
            rows = jnp.arange(space.num_steps + 1)
            first = 0 if share_initial_noise else candidate
            owner = jnp.where(rows == 0, first, candidate)
            return fresh(jax.vmap(trajectory_key, in_axes=(None, 0, 0))(key, owner, rows), 1)

        def ask_fn(key: Array, state: PyTree) -> Proposal:
            del key  # candidates hang on the prompt's own key, so that they nest: see trajectory_key
            noise = jax.vmap(draw_rows, in_axes=(None, 0))(state, jnp.arange(candidates))
            root = space.root(jax.tree.map(lambda leaf: leaf[:, 0], noise))
            return Proposal(root, jax.tree.map(lambda leaf: leaf[:, 1:], noise))

        def tell_fn(key: Array, state: PyTree, proposal: Proposal, evaluation: Evaluation) -> PyTree:
            del key, proposal, evaluation
            return state

        return (Stage(1, ask_fn, tell_fn),)

    return Searcher("best_of_n", init_fn, stages_fn)
