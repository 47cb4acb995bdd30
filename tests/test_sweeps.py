"""Sweeps of continuous settings: one more `vmap` axis, compiled once."""

from __future__ import annotations

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.search import search
from jaxsearch.searchers import (
    SEARCHERS,
    cross_entropy,
    epsilon_greedy,
    evolution,
    gradient,
    halving,
    markov_chain,
    mcts,
    paths,
    smc,
    svdd,
    zero_order,
)
from jaxsearch.searchers.early_stop import early_stop
from tests import toys

# By searcher and setting, and which of its variants: a searcher of small settings, and values of
# the swept setting at which results differ.
SWEEPS = {
    "cross_entropy.smoothing": (
        lambda v: cross_entropy(population=4, elites=2, generations=3, smoothing=v),
        (0.1, 0.5, 1.0),
    ),
    "early_stop.threshold": (
        lambda v: early_stop(zero_order(neighbours=2, iterations=4), threshold=v),
        (0.2, 0.45, 0.9),
    ),
    "epsilon_greedy.epsilon": (
        lambda v: epsilon_greedy(candidates=2, iterations=3, epsilon=v),
        (0.0, 0.5, 1.0),
    ),
    "epsilon_greedy.radius": (
        lambda v: epsilon_greedy(candidates=2, iterations=3, radius=v),
        (0.05, 0.2, 2.0),
    ),
    "evolution.mutation": (
        lambda v: evolution(population=3, generations=2, mutation=v),
        (0.1, 0.5, 1.0),
    ),
    "gradient.learning_rate": (
        lambda v: gradient(iterations=2, learning_rate=v),
        (0.01, 0.1, 1.0),
    ),
    "gradient.clip": (lambda v: gradient(iterations=2, optimizer="sgd", clip=v), (1e-3, 1e-2, 1.0)),
    "gradient.regularisation norm": (
        lambda v: gradient(iterations=2, renormalise=False, regularisation=v),
        (0.01, 0.1, 1.0),
    ),
    "gradient.regularisation moments": (
        lambda v: gradient(iterations=2, optimizer="sgd", regularisation=v, regulariser="moments"),
        (0.0, 0.1, 1.0),
    ),
    "markov_chain.strength": (
        lambda v: markov_chain(iterations=4, strength=v),
        (0.0, 5.0, 500.0),
    ),
    "markov_chain.step": (lambda v: markov_chain(iterations=4, step=v), (0.05, 0.5, 1.0)),
    "mcts.exploration": (
        lambda v: mcts(branches=2, simulations=6, exploration=v),
        (0.0, 0.05, 10.0),
    ),
    "smc.strength": (
        lambda v: smc(particles=6, strength=v, threshold=1.0),
        (0.0, 5.0, 500.0),
    ),
    "smc.threshold": (
        lambda v: smc(particles=6, strength=50.0, threshold=v),
        (0.0, 0.5, 1.0),
    ),
    "svdd.temperature": (
        lambda v: svdd(particles=2, candidates=3, temperature=v),
        (0.0, 0.01, 10.0),
    ),
    "zero_order.step cosine": (
        lambda v: zero_order(neighbours=2, iterations=3, step=v),
        (0.3, 0.8, 0.99),
    ),
    "zero_order.step distance": (
        lambda v: zero_order(neighbours=2, iterations=3, geometry="distance", step=v),
        (0.05, 0.3, 2.0),
    ),
}
# They decide on the program's rounds and sizes.
FIXED = {
    "halving.keep": lambda v: halving(keep=v),
    "paths.level": lambda v: paths(level=v),
    "paths.forward": lambda v: paths(forward=v),
    "paths.backward": lambda v: paths(backward=v),
}


def test_every_continuous_setting_is_swept_or_refused():
    """Kills: a new one that nobody has tried to trace; one that fails with an error of JAX."""
    continuous = {
        f"{name}.{setting}"
        for name, factory in {**SEARCHERS, "early_stop": early_stop}.items()
        for setting, parameter in inspect.signature(factory).parameters.items()
        if parameter.annotation in ("float", "float | None")
    }
    assert continuous == {name.split()[0] for name in SWEEPS} | set(FIXED)
    for name, make in FIXED.items():
        with pytest.raises(ValueError, match=f"{name.split('.')[1]} is traced.* pass a number"):
            jax.vmap(lambda value, make=make: make(value).rank)(jnp.asarray([0.5]))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_grid_is_one_program_and_gives_what_one_gives_alone(name):
    """Kills: `float()` or a branch on a setting; a setting that is ignored once it is traced."""
    make, values = SWEEPS[name]
    base = toys.problem(toys.linear_solver())
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
