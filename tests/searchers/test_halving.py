"""Successive halving against its trajectories run one by one; the early stop of any searcher."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.noise import fresh_trajectory, take
from jaxsearch.core.plan import count_cost, stage_plans
from jaxsearch.core.search import search
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Proposal
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import best_of_n, halving, mcts, zero_order
from jaxsearch.searchers.early_stop import early_stop
from tests import cases, toys


def problem(solver="ddpm", **kwargs):
    return toys.problem(cases.solvers()[solver], **kwargs)


def one_by_one(key, problem_, prompts, num: int, drops: list[tuple[int, int]]):
    """The scores of the trajectories that are alive after each of (steps, how many stay)."""
    space = noise_space(problem_, 1)
    init = jax.random.fold_in(jax.random.fold_in(key, int(prompts.ids[0])), 0)
    rows = [fresh_trajectory(space, jax.random.fold_in(init, number)) for number in range(num)]
    alive = list(range(num))
    for steps, stay in drops:
        scores = {}
        for number in alive:
            root = space.root(take(rows[number], 0))
            noise = take(rows[number], slice(1, steps + 1))
            proposal = jax.tree.map(lambda leaf: leaf[None, None], Proposal(root, noise))
            scores[number] = float(evaluate(problem_, proposal, prompts)[0].score[0, 0])
        alive = sorted(alive, key=lambda number: -scores[number])[:stay]
    return alive[0], scores[alive[0]]


def test_the_better_part_goes_on():
    """Kills: the worse part kept; a trajectory that goes on with another's noise; unstable ties."""
    key, prompts, problem_ = jax.random.key(6), toys.prompts(4), problem()
    result = search(key, halving(candidates=7, rungs=2, keep=0.5), problem_, prompts)
    best = search(key, best_of_n(candidates=7), problem_, prompts)
    space = noise_space(problem_, 1)
    for prompt in range(4):
        alone = jax.tree.map(lambda leaf, i=prompt: leaf[i : i + 1], prompts)
        winner, score = one_by_one(key, problem_, alone, 7, [(2, 4), (4, 2), (6, 1)])
        np.testing.assert_allclose(result.score[prompt], score, atol=2e-6)
        init = jax.random.fold_in(jax.random.fold_in(key, int(prompts.ids[prompt])), 0)
        rows = fresh_trajectory(space, jax.random.fold_in(init, winner))
        np.testing.assert_array_equal(
            jax.random.key_data(result.particle.noise.keys[prompt, :6]),
            jax.random.key_data(rows.keys[:6]),
        )
    assert np.all(np.asarray(result.score) <= np.asarray(best.score) + 1e-6)


def test_it_spends_on_those_that_are_alive():
    """7 for two steps, 4 for two, 2 for two."""
    problem_ = problem(value=solver_estimate())
    one = halving(candidates=7, rungs=2)
    assert [(s.candidates, s.steps) for s in stage_plans(one, problem_)] == [(7, 2), (4, 2), (2, 2)]
    assert count_cost(one, problem_).network_passes == 26
    assert count_cost(halving(candidates=7, rungs=0), problem_).network_passes == 42


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"rungs": -1}, "rungs is -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        halving(**settings)


def test_more_rungs_than_places_are_refused():
    with pytest.raises(ValueError, match=r"rungs is 6, .* only 5 places"):
        search(jax.random.key(0), halving(rungs=6), problem(), toys.prompts(1))


@pytest.mark.parametrize("searcher", [zero_order(neighbours=2, iterations=5), mcts(simulations=2)])
def test_a_prompt_that_is_good_enough_rests_and_others_do_not_notice(searcher):
    """Kills: a stopped prompt that is still charged, or goes on; a threshold for all together."""
    key, prompts, problem_ = jax.random.key(6), toys.prompts(6), problem("heun_edm")
    whole = search(key, searcher, problem_, prompts)
    best = np.asarray(whole.trace.best)
    threshold = float(np.median(best[-1]))
    stopped = search(key, early_stop(searcher, threshold=threshold), problem_, prompts)
    for prompt in range(6):
        reached = np.flatnonzero(best[:, prompt] >= threshold)
        last = reached[0] if len(reached) else len(best) - 1
        np.testing.assert_array_equal(stopped.score[prompt], best[last, prompt])
        for name in ("network_passes", "decodes", "verifier_calls", "solver_steps"):
            spent = getattr(stopped.cost, name)[prompt]
            np.testing.assert_array_equal(spent, getattr(whole.trace.cost, name)[last, prompt])
    assert np.any(np.asarray(stopped.cost.network_passes) < np.asarray(whole.cost.network_passes))


def test_what_rests_is_not_computed():
    """Kills: a microbatch of resting particles that runs all the same."""
    base = problem("heun_edm")
    denoiser, counter = toys.counting(base.denoiser)
    problem_ = dataclasses.replace(base, denoiser=denoiser)
    one = early_stop(zero_order(neighbours=2, iterations=5), threshold=-1e9)
    result = jax.block_until_ready(search(jax.random.key(0), one, problem_, toys.prompts(3)))
    assert counter.rows == int(np.sum(result.cost.network_passes)) == 3 * 2 * 11
