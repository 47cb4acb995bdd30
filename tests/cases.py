"""Small settings of everything registered: one line each, and every law applies to it."""

from __future__ import annotations

import functools
from typing import NamedTuple

from jaxsearch.core.process import edm, flow, karras, shifted, trained_steps, variance_preserving
from jaxsearch.core.types import Searcher, Solver
from jaxsearch.searchers import (
    beam,
    best_of_n,
    cross_entropy,
    epsilon_greedy,
    evolution,
    gradient,
    halving,
    markov_chain,
    mcts,
    paths,
    rollover,
    smc,
    svdd,
    zero_order,
)
from jaxsearch.searchers.early_stop import early_stop
from jaxsearch.solvers import first_order, flow_sde, heun


class SearcherCase(NamedTuple):
    """A searcher of small settings and what holds for it."""

    searcher: Searcher
    needs_noise: bool = False  # refuses a solver that injects none
    plain: Searcher | None = None  # the setting at which it is plain sampling
    uneven: bool = False  # rounds of one stage go different numbers of steps


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
    "mcts": SearcherCase(mcts(branches=2, simulations=4, leaves=2, every=2), needs_noise=True),
    "mcts_value": SearcherCase(
        mcts(branches=3, simulations=2, rollouts="value", commit="visits", window=(0.01, 15.0)),
        needs_noise=True,
        plain=mcts(branches=1, simulations=1, rollouts="value"),
    ),
    "paths": SearcherCase(paths(candidates=3, level=3.0, forward=2.0, backward=3.0, unit="steps")),
    "paths_uneven": SearcherCase(
        paths(paths=1, candidates=3, level=0.27, forward=0.6, backward=0.8), uneven=True
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
    "cross_entropy": SearcherCase(
        cross_entropy(directions=4, population=4, elites=2, generations=3),
        plain=cross_entropy(population=1, elites=1, generations=1),
    ),
    "cross_entropy_spectral": SearcherCase(
        cross_entropy(
            directions=3, population=4, elites=2, generations=3, subspace="low_frequency"
        ),
        plain=cross_entropy(population=1, elites=1, generations=1, subspace="low_frequency"),
    ),
    "evolution": SearcherCase(
        evolution(population=4, generations=2),
        plain=evolution(population=1, survivors=1, schedule=()),
    ),
    "evolution_schedule": SearcherCase(
        evolution(
            population=(4, 3, 2),
            generations=1,
            schedule=(0, 2),
            selection="truncation",
            partial="add",
        ),
        needs_noise=True,
    ),
    "halving": SearcherCase(halving(candidates=5, rungs=2), plain=halving(candidates=1, rungs=1)),
    "halving_stops": SearcherCase(early_stop(halving(candidates=3, rungs=1), threshold=9.0)),
    "mcts_stops": SearcherCase(
        early_stop(mcts(branches=2, simulations=2), threshold=0.4), needs_noise=True
    ),
    "zero_order_stops": SearcherCase(
        early_stop(zero_order(neighbours=2, iterations=4), threshold=0.4)
    ),
    "rollover": SearcherCase(rollover(quota=3), needs_noise=True, plain=rollover(quota=1)),
    "rollover_window": SearcherCase(
        rollover(quota=2, every=2, window=(0.01, 15.0)), needs_noise=True
    ),
    "markov_chain": SearcherCase(
        markov_chain(chains=3, iterations=3, step=0.5), plain=markov_chain(chains=1, iterations=0)
    ),
    "markov_chain_injected": SearcherCase(
        markov_chain(chains=2, iterations=3, injected=True), needs_noise=True
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
        "chosen_diffusion": flow_sde(shifted(flow(), num_steps=NUM_STEPS)),
        "ddim": first_order(trained_steps(vp, num_steps=NUM_STEPS), eta=0.0),
    }
