"""Sweeps of continuous settings: one more `vmap` axis, compiled once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.search import search
from jaxsearch.searchers import (
    cross_entropy,
    epsilon_greedy,
    evolution,
    gradient,
    markov_chain,
    mcts,
    smc,
    svdd,
    zero_order,
)
from tests import cases, toys

# Searcher of small settings, the setting that is swept, and values at which results differ.
SWEEPS = {
    "cross_entropy": (
        lambda v: cross_entropy(population=4, elites=2, generations=3, smoothing=v),
        (0.1, 0.5, 1.0),
    ),
    "epsilon": (lambda v: epsilon_greedy(candidates=2, iterations=3, epsilon=v), (0.0, 0.5, 1.0)),
    "radius": (lambda v: epsilon_greedy(candidates=2, iterations=3, radius=v), (0.05, 0.2, 2.0)),
    "evolution": (lambda v: evolution(population=3, generations=2, mutation=v), (0.1, 0.5, 1.0)),
    "gradient": (
        lambda v: gradient(iterations=2, renormalise=False, regularisation=v),
        (0.01, 0.1, 1.0),
    ),
    "markov_chain": (lambda v: markov_chain(iterations=4, strength=v), (0.0, 5.0, 500.0)),
    "markov_step": (lambda v: markov_chain(iterations=4, step=v), (0.05, 0.5, 1.0)),
    "mcts": (lambda v: mcts(branches=2, simulations=6, exploration=v), (0.0, 0.05, 10.0)),
    "smc": (lambda v: smc(particles=6, strength=v, threshold=1.0), (0.0, 5.0, 500.0)),
    "svdd": (lambda v: svdd(particles=2, candidates=3, temperature=v), (0.0, 0.01, 10.0)),
    "zero_order": (lambda v: zero_order(neighbours=2, iterations=3, step=v), (0.3, 0.8, 0.99)),
    "zero_order_distance": (
        lambda v: zero_order(neighbours=2, iterations=3, geometry="distance", step=v),
        (0.05, 0.3, 2.0),
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_grid_is_one_program_and_gives_what_one_gives_alone(name):
    """Kills: `float()` or a branch on a setting; a setting that is ignored once it is traced."""
    make, values = SWEEPS[name]
    base = toys.problem(cases.solvers()["heun_edm"])
    key, prompts, traces = jax.random.key(2), toys.prompts(3), []

    def apply(params, x, t, cond):
        traces.append(x.shape)
        return base.denoiser.apply(params, x, t, cond)

    problem = dataclasses.replace(base, denoiser=dataclasses.replace(base.denoiser, apply=apply))

    @jax.jit
    def sweep(values):
        return jax.vmap(lambda value: search(key, make(value), problem, prompts))(values)

    grid = sweep(jnp.asarray(values))
    num = len(traces)
    sweep(jnp.asarray(values) * 0.9)
    assert len(traces) == num
    alone = search(key, make(values[-1]), base, prompts)
    np.testing.assert_allclose(grid.score[-1], alone.score, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(grid.cost.network_passes[-1], alone.cost.network_passes)
    assert not np.allclose(grid.particle.x[0], grid.particle.x[-1])
