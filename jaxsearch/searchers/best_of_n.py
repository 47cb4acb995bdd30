"""Best-of-N: independent samples, the best one kept. Also called random search or rejection."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count
from jaxsearch.core.noise import fresh_trajectory, repeat, require_noise, take
from jaxsearch.core.random import fold_in
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import (
    Array,
    Evaluation,
    NoiseSpace,
    Proposal,
    PyTree,
    Searcher,
    Stage,
)


@reused
def best_of_n(*, candidates: int = 4, share_initial_noise: bool = False) -> Searcher:
    """Draws whole samples independently and keeps the best.

    Random search of Ma et al. 2025 (section 3.2); rejection sampling of Ramesh & Mardani 2025,
    whose text and EDM code draw one initial noise for all candidates and vary only what is injected
    later (`share_initial_noise`). One candidate is plain sampling.

    Args:
        candidates: N, samples per prompt, at least 1.
        share_initial_noise: whether all candidates start from the same initial noise.

    Raises:
        ValueError: if `candidates` is below 1; on a solver without noise, if the initial noise is
            shared.
    """
    check_count("candidates", candidates)

    def init_fn(space: NoiseSpace, key: Array) -> PyTree:
        del space
        return key

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        if share_initial_noise:
            require_noise(space, "best_of_n with share_initial_noise")

        def ask_fn(key: Array, round: Array, state: PyTree) -> Proposal:
            del key, round  # candidates hang on the prompt's own key, so that they nest
            keys = fold_in(state, jnp.arange(candidates))
            noise = jax.vmap(lambda candidate: fresh_trajectory(space, candidate))(keys)
            first = take(noise, (slice(None), 0))
            if share_initial_noise:
                first = repeat(take(first, 0), candidates)
            return Proposal(space.root(first), take(noise, (slice(None), slice(1, None))))

        def tell_fn(
            key: Array, round: Array, state: PyTree, proposal: Proposal, evaluation: Evaluation
        ) -> PyTree:
            del key, round, proposal, evaluation
            return state

        return (Stage(1, ask_fn, tell_fn),)

    return Searcher("best_of_n", init_fn, stages_fn)
