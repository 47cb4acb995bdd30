"""Small settings of everything registered: one line each, and every law applies to it."""

from __future__ import annotations

import functools
from typing import NamedTuple

from jaxsearch.core.process import edm, flow, karras, shifted, trained_steps, variance_preserving
from jaxsearch.core.types import Searcher, Solver
from jaxsearch.searchers import (
    beam,
    best_of_n,
    epsilon_greedy,
    gradient,
    mcts,
    smc,
    svdd,
    zero_order,
)
from jaxsearch.solvers import first_order, heun


class SearcherCase(NamedTuple):
    """A searcher of small settings and what holds for it."""

    searcher: Searcher
    needs_noise: bool = False  # refuses a solver that injects none
    plain: Searcher | None = None  # the setting at which it is plain sampling
    adaptive: bool = False  # its cost hangs on the scores, and `plan` tells that of equal scores


SEARCHERS = {
    "beam": SearcherCase(
        beam(width=2, candidates=3), needs_noise=True, plain=beam(width=1, candidates=1)
    ),
    "best_of_n": SearcherCase(best_of_n(candidates=4), plain=best_of_n(candidates=1)),
    "best_of_n_shared": SearcherCase(
        best_of_n(candidates=3, share_initial_noise=True), needs_noise=True
    ),
    "zero_order": SearcherCase(zero_order(neighbours=3, iterations=3, step=0.8)),
    "zero_order_elitist": SearcherCase(
        zero_order(neighbours=2, iterations=3, geometry="distance", step=0.5, elitist=True)
    ),
    "epsilon_greedy": SearcherCase(
        epsilon_greedy(candidates=3, iterations=3),
        needs_noise=True,
        plain=epsilon_greedy(candidates=1, iterations=1, epsilon=1.0),
    ),
    "epsilon_greedy_elitist": SearcherCase(
        epsilon_greedy(candidates=2, iterations=(0, 2, 3, 0, 1, 2), elitist=True),
        needs_noise=True,
    ),
    "epsilon_greedy_every": SearcherCase(
        epsilon_greedy(candidates=3, iterations=2, every=3, window=(0.01, 15.0)),
        needs_noise=True,
        plain=epsilon_greedy(candidates=1, iterations=1, epsilon=1.0, every=3),
    ),
    "gradient": SearcherCase(
        gradient(iterations=3, learning_rate=0.1), plain=gradient(iterations=0)
    ),
    "gradient_injected": SearcherCase(
        gradient(
            candidates=2,
            iterations=3,
            optimizer="momentum",
            learning_rate=2.0,
            renormalise=False,
            regularisation=0.01,
            injected=True,
            clip=0.2,
        ),
        needs_noise=True,
        plain=gradient(iterations=0, injected=True),
    ),
    "mcts": SearcherCase(
        mcts(branches=2, simulations=4, leaves=2, every=2), needs_noise=True, adaptive=True
    ),
    "mcts_value": SearcherCase(
        mcts(branches=3, simulations=2, rollouts="value", commit="visits", window=(0.01, 15.0)),
        needs_noise=True,
        plain=mcts(branches=1, simulations=1, rollouts="value"),
        adaptive=True,
    ),
    "smc": SearcherCase(
        smc(particles=4, threshold=1.0), needs_noise=True, plain=smc(particles=1, every=2)
    ),
    "smc_max": SearcherCase(
        smc(particles=5, potential="max", resampling="residual", every=2, window=(0.01, 15.0)),
        needs_noise=True,
    ),
    "svdd": SearcherCase(
        svdd(particles=2, candidates=3, temperature=0.01),
        needs_noise=True,
        plain=svdd(particles=1, candidates=1, every=4),
    ),
}

NUM_STEPS = 6


@functools.cache
def solvers() -> dict[str, Solver]:
    """One solver of each kind on each kind of process."""
    vp = variance_preserving(beta_start=1e-4, beta_end=0.02, shape="linear")
    return {
        "heun_edm": heun(karras(edm(), num_steps=NUM_STEPS, sigma_max=20.0)),
        "ddpm": first_order(trained_steps(vp, num_steps=NUM_STEPS, spacing="trailing")),
        "flow_sde": first_order(shifted(flow(), num_steps=NUM_STEPS)),
        "ddim": first_order(trained_steps(vp, num_steps=NUM_STEPS), eta=0.0),
    }
