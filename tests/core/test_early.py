"""The clean estimate of a noise level, in searches of every kind."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.early import keep_estimate
from jaxsearch.core.plan import plan
from jaxsearch.core.replay import remake, sample
from jaxsearch.core.search import search
from jaxsearch.core.types import Problem, Verifier
from jaxsearch.core.value import rollout
from jaxsearch.searchers import (
    best_of_n,
    epsilon_greedy,
    gradient,
    mcts,
    paths,
    smc,
)
from tests import cases, toys

LEVEL = 2.0
SEARCHERS = {
    "best_of_n": best_of_n(candidates=3),
    "epsilon_greedy": epsilon_greedy(candidates=3, iterations=2),
    "gradient": gradient(iterations=2, learning_rate=0.1),
    "mcts": mcts(branches=2, simulations=3),
    "paths": paths(paths=1, candidates=3, level=0.27, forward=0.6, backward=0.8),
    "smc": smc(particles=3, threshold=1.0),
}


def _likeness(params, images, context):
    return -jnp.mean(jnp.abs(images - context["estimate"]), axis=(1, 2, 3))


LIKENESS = Verifier(name="likeness", apply=_likeness, needs=("estimate",))


def problem(*, level: float = LEVEL, **changes) -> Problem:
    solver = keep_estimate(cases.solvers()["heun_edm"], level=level)
    found = toys.problem(solver, verifiers=(LIKENESS,))
    return dataclasses.replace(found, **changes)


def estimates(problem_, noise, prompts, x) -> list[np.ndarray]:
    """What a solver that keeps nothing estimates at each step [P, *E], from noises [P, T, *E]."""
    solver, found = cases.solvers()["heun_edm"], []
    for i in range(solver.num_steps):
        index = jnp.full(len(x), i)
        moved = solver.step(
            lambda x, t: problem_.denoiser(x, t, prompts.cond), x, index, noise[:, i], ()
        )
        x = moved.x
        found.append(np.asarray(moved.x0))
    return [*found, np.asarray(x)]


def test_it_is_the_estimate_of_the_step_that_begins_nearest():
    """Kills: the estimate of another step; that of the finished sample; of another prompt."""
    problem_, prompts = problem(), toys.prompts(3)
    plain = sample(jax.random.key(0), problem_, prompts)
    levels = cases.solvers()["heun_edm"].schedule.sigma[:-1]
    at = int(np.argmin(np.abs(np.log(levels / LEVEL))))
    assert 0 < at < len(levels) - 2
    drawn = jax.vmap(jax.vmap(lambda key: jax.random.normal(key, toys.SHAPE)))(
        plain.noise.keys[:, :, 0]
    )
    every = estimates(problem_, drawn[:, 1:], prompts, 20.0 * drawn[:, 0])
    np.testing.assert_allclose(plain.x, every[-1], atol=1e-5)
    np.testing.assert_allclose(plain.memory.x0, every[at], atol=1e-5)
    assert np.abs(every[at] - every[at + 1]).max() > 1e-2


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_score_is_that_of_the_samples_own_way(name):
    """Kills: a memory that is not selected with its particle, or forgotten when renoised; another
    decode for nothing, or one that is not counted.
    """
    problem_, prompts = problem(), toys.prompts(3)
    result = search(jax.random.key(1), SEARCHERS[name], problem_, prompts)
    made = remake(
        problem_,
        result.particle.noise,
        prompts,
        lambda one, latents, context: LIKENESS(one.objective.decoder(latents), context),
        legs=result.particle.legs,
    )
    np.testing.assert_allclose(made.output, result.score, atol=1e-5)
    assert np.all(np.asarray(result.score) < -1e-4)
    planned = plan(SEARCHERS[name], problem_, prompts)
    np.testing.assert_array_equal(result.cost.decodes, 2 * result.cost.verifier_calls)
    if not SEARCHERS[name].adaptive:
        np.testing.assert_array_equal(result.cost.decodes, planned.cost.decodes)


def test_a_rollout_meets_its_level():
    """Where the level is the last step's, the estimate is the sample: of each rollout its own.

    Kills: the estimate of where a rollout begins, once it has gone on.
    """
    prompts, one = toys.prompts(2), epsilon_greedy(candidates=2, iterations=1)
    last = problem(level=0.001, value=rollout())
    result = search(jax.random.key(2), one, last, prompts)
    np.testing.assert_allclose(result.trace.current, 0.0, atol=1e-6)
    before = search(jax.random.key(2), one, problem(level=10.0, value=rollout()), prompts)
    assert np.all(np.asarray(before.trace.current)[1:] < -1e-3)


def test_what_is_renoised_behind_its_level_keeps_it():
    """Kills: an estimate that is forgotten on the way back, and not made again."""
    one = paths(candidates=3, level=3.0, forward=2.0, backward=3.0, unit="steps")
    result = search(jax.random.key(3), one, problem(level=20.0), toys.prompts(3))
    assert np.all(np.asarray(result.particle.legs.back)[:, -1] > 0)
    assert np.all(np.abs(result.particle.memory.x0).max(axis=(1, 2, 3)) > 1e-3)


def test_without_it_the_remedy_is_named():
    plain = dataclasses.replace(problem(), solver=cases.solvers()["heun_edm"])
    with pytest.raises(ValueError, match=r"needs 'estimate'.*solver jaxsearch.keep_estimate"):
        search(jax.random.key(0), SEARCHERS["best_of_n"], plain, toys.prompts(2))


@pytest.mark.parametrize("level", [0.0, -1.0, np.nan, np.inf])
def test_levels_are_checked(level):
    with pytest.raises(ValueError, match="level is"):
        keep_estimate(cases.solvers()["heun_edm"], level=level)
