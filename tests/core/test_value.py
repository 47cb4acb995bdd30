"""Values of partial samples against the sampler itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.noise import fresh_trajectory, take
from jaxsearch.core.plan import count_cost
from jaxsearch.core.replay import replay
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Proposal
from jaxsearch.core.value import lookahead, rollout, solver_estimate
from jaxsearch.searchers import epsilon_greedy
from tests import cases, toys


def partial(problem, steps: int):
    """Plain samples of two prompts after so many steps, with their evaluation and cost."""
    space, prompts = noise_space(problem, 1), toys.prompts(2)
    rows = jax.vmap(lambda k: fresh_trajectory(space, k))(jax.random.split(jax.random.key(5), 2))
    root = space.root(take(rows, (slice(None), 0)))
    noise = take(rows, (slice(None), slice(1, steps + 1)))
    proposal = jax.tree.map(lambda leaf: leaf[:, None], Proposal(root, noise))
    return *evaluate(problem, proposal, prompts), rows, prompts


@pytest.mark.parametrize("solver", ["heun_edm", "ddpm", "flow_sde", "ddim"])
def test_a_rollout_is_the_sampler_without_noise(solver):
    """Kills: churn that goes on with no noise to fill it; a rollout that stops a step early."""
    one = cases.solvers()[solver]
    quiet = one.quiet or one
    assert not any(quiet.active)
    problem = toys.problem(one, value=rollout())
    evaluation, cost, _, prompts = partial(problem, 2)
    child = jax.tree.map(lambda leaf: leaf[:, 0], evaluation.child)
    # By hand: the quiet solver's own steps from where the child stands.
    denoise = lambda x, t: problem.denoiser(x, t, prompts.cond)  # noqa: E731
    x = child.x
    for step in range(2, one.num_steps):
        index = jnp.full((2,), step)
        x = quiet.step(denoise, x, index, jnp.zeros_like(x), child.memory).x
    scores = toys.bright(problem.objective.decoder(x), {})
    np.testing.assert_allclose(evaluation.score[:, 0], scores, atol=1e-6)
    calls = sum(one.calls[:2]) + sum(quiet.calls[2:])
    np.testing.assert_array_equal(cost.network_passes, calls)
    np.testing.assert_array_equal(cost.solver_steps, 2)


def test_a_rollout_of_some_steps_ends_in_the_solvers_own_estimate():
    """Kills: steps that are not counted; the latent scored in the place of the estimate."""
    one = cases.solvers()["heun_edm"]
    _, whole, *_ = partial(toys.problem(one, value=rollout()), 3)
    evaluation, cost, *_ = partial(toys.problem(one, value=rollout(steps=2)), 3)
    longer, *_ = partial(toys.problem(one, value=rollout(steps=50)), 3)
    full, *_ = partial(toys.problem(one, value=rollout()), 3)
    np.testing.assert_array_equal(longer.score, full.score)
    np.testing.assert_array_equal(cost.network_passes, 3 * 2 + 2 * 2)
    assert np.all(np.asarray(whole.network_passes) > np.asarray(cost.network_passes))
    assert np.all(np.asarray(evaluation.score) != np.asarray(full.score))


@pytest.mark.parametrize("value", [solver_estimate(), lookahead(), rollout(), rollout(steps=1)])
def test_a_finished_sample_stands_for_itself_and_costs_nothing_more(value):
    """Kills: an estimate scored in the place of a finished sample; a network called at its end."""
    one = cases.solvers()["ddpm"]
    problem = toys.problem(one, value=value)
    evaluation, cost, rows, prompts = partial(problem, one.num_steps)
    images = problem.objective.decoder(replay(problem, rows, prompts).x)
    np.testing.assert_allclose(evaluation.score[:, 0], toys.bright(images, {}), atol=1e-6)
    np.testing.assert_array_equal(cost.network_passes, sum(one.calls))


def test_plan_counts_rollouts():
    """Every searched candidate at step i plays the T - i - 1 steps that are left."""
    one = cases.solvers()["ddpm"]
    searcher = epsilon_greedy(candidates=2, iterations=1)
    plain, played = (
        int(count_cost(searcher, toys.problem(one, value=value)).network_passes)
        for value in (lookahead(), rollout())
    )
    left = [one.num_steps - 1 - i for i, active in enumerate(one.active) if active]
    assert played - plain == sum(2 * (steps - 1) for steps in left if steps)  # one of them each


@pytest.mark.parametrize("steps", [0, 1.5, -1])
def test_bad_steps_are_refused(steps):
    with pytest.raises(ValueError, match="steps is"):
        rollout(steps=steps)
