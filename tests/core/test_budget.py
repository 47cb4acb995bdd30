"""The size that a budget pays for."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxsearch.core.budget import largest
from jaxsearch.core.host import search_on_host
from jaxsearch.core.plan import most_network_passes
from jaxsearch.core.search import search
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import FREE_SIZE, SEARCHERS, best_of_n, evolution, halving, mcts
from tests import cases, toys


def problem(solver="heun_edm"):
    return toys.problem(cases.solvers()[solver])


def test_every_searcher_has_a_size_that_a_budget_chooses():
    assert set(FREE_SIZE) == set(SEARCHERS)


@pytest.mark.parametrize("searcher", ["beam", "paths"])
def test_it_is_the_largest_that_is_never_above(searcher):
    """One more is too dear. Kills: a size too large or too small by one."""
    make = lambda size: SEARCHERS[searcher](**{FREE_SIZE[searcher]: size, **MORE.get(searcher, {})})  # noqa: E731
    size = largest(make, problem(), network_passes=400)
    assert most_network_passes(make(size), problem()) <= 400
    assert most_network_passes(make(size + 1), problem()) > 400
    result = search(jax.random.key(0), make(size), problem(), toys.prompts(2))
    assert np.all(np.asarray(result.cost.network_passes) <= 400)


MORE = {"paths": {"level": 3.0, "forward": 2.0, "backward": 3.0, "unit": "steps"}}


@pytest.mark.parametrize("rollouts", ["sample", "value"])
def test_a_tree_never_spends_more_whatever_the_scores(rollouts):
    """Over prompts of other trees.

    Kills: a bound for leaves of another depth; rollouts that are not counted.
    """
    make = lambda size: mcts(simulations=size, rollouts=rollouts, exploration=0.0)  # noqa: E731
    size = largest(make, problem(), network_passes=400)
    assert size > 1
    result = search(jax.random.key(0), make(size), problem(), toys.prompts(8))
    spent = np.asarray(result.cost.network_passes)
    assert np.all(spent <= 400)


def test_a_hostile_verifier_makes_a_tree_as_dear_as_it_can_be():
    """One that keeps leaves shallow: it commits to the only child that was not expanded.

    The first child played gets 0.8, the next one 0.9, so that the last simulations go below that
    one, to each of its children in turn; the last of all ruins it. Before the last commitment that
    counts, the first child is the best. The bound is what this costs.

    Kills: a node that is expanded for each simulation; nodes of the whole tree below every root; a
    bound that is lower than what can be spent.
    """
    problem_ = toys.linear_problem(toys.linear_solver(), value=solver_estimate())
    prompts = toys.prompts(1)
    one, round = mcts(branches=4, simulations=8, exploration=0.0), 0
    rewards = [0.8, 0.9, 0.1, 0.1, 0.89, 0.88, 0.87, -100.0]

    def score(images, ids):
        commitment, simulation = divmod(round // 2, 8)
        last = commitment == problem_.solver.num_steps - 2 and simulation == 0
        return np.full(len(images), 1.0 if last else rewards[simulation], np.float32)

    for state in search_on_host(jax.random.key(1), one, problem_, prompts, score):
        round = int(state.round)
    assert state.cost.network_passes[0] == most_network_passes(one, problem_)


def test_a_leaf_found_by_many_is_played_for_each():
    """With one branch all four simulations of a round find the same leaf, which grows once.

    Kills: a bound without rollouts of a leaf that does not grow again.
    """
    problem_ = toys.linear_problem(toys.linear_solver(), value=solver_estimate())
    one = mcts(branches=1, simulations=4, leaves=4)
    spent = search(jax.random.key(0), one, problem_, toys.prompts(1)).cost.network_passes
    assert spent[0] == most_network_passes(one, problem_) == 4 + 4 * (3 + 2 + 1)


def test_prices_that_bend_are_followed():
    """Halving rounds up at every rung. Kills: a line drawn through the first two prices."""
    make = lambda size: halving(candidates=size, rungs=2)  # noqa: E731
    prices = [most_network_passes(make(size), problem("ddim")) for size in range(1, 6)]
    assert len(set(np.diff(prices))) > 1
    budget = prices[4] - 1
    expected = sum(price <= budget for price in prices)
    assert largest(make, problem("ddim"), network_passes=budget) == expected


def test_what_cannot_be_paid_is_refused():
    with pytest.raises(ValueError, match=r"10 network passes is too small for best_of_n: .* 11 at"):
        largest(lambda n: best_of_n(candidates=n), problem(), network_passes=10)
    with pytest.raises(ValueError, match="does not change the price of evolution"):
        largest(lambda n: evolution(generations=n, schedule=()), problem(), network_passes=10**4)
