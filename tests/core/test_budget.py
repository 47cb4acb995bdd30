"""The size that a budget pays for."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxsearch.core.budget import largest
from jaxsearch.core.plan import most_network_passes
from jaxsearch.core.search import search
from jaxsearch.searchers import FREE_SIZE, SEARCHERS, best_of_n, evolution, halving, mcts
from tests import cases, toys


def problem(solver="heun_edm"):
    return toys.problem(cases.solvers()[solver])


def test_every_searcher_has_a_size_that_a_budget_chooses():
    assert set(FREE_SIZE) == set(SEARCHERS)


@pytest.mark.parametrize("searcher", ["beam", "epsilon_greedy", "paths"])
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
    """Over prompts of other trees, and close to the bound for some exploration.

    Kills: a bound for leaves of another depth; rollouts that are not counted.
    """
    make = lambda size: mcts(simulations=size, rollouts=rollouts, exploration=0.0)  # noqa: E731
    size = largest(make, problem(), network_passes=400)
    assert size > 1
    result = search(jax.random.key(0), make(size), problem(), toys.prompts(8))
    spent = np.asarray(result.cost.network_passes)
    assert np.all(spent <= 400)
    if rollouts == "sample":  # the other soon goes down to leaves that cost nothing more
        assert np.max(spent) > 200
    # A single simulation before each commitment is played from the root's children: no slack.
    one = search(jax.random.key(0), make(1), problem(), toys.prompts(8)).cost.network_passes
    assert np.all(np.asarray(one) <= most_network_passes(make(1), problem()))


def test_prices_that_bend_are_followed():
    """Halving rounds up at every rung. Kills: a line drawn through the first two prices."""
    make = lambda size: halving(candidates=size, rungs=2)  # noqa: E731
    prices = [most_network_passes(make(size), problem()) for size in range(1, 7)]
    assert len(set(np.diff(prices))) > 1
    budget = prices[5] - 1
    expected = sum(price <= budget for price in prices)
    assert largest(make, problem(), network_passes=budget) == expected


def test_what_cannot_be_paid_is_refused():
    with pytest.raises(ValueError, match=r"10 network passes is too small for best_of_n: .* 11 at"):
        largest(lambda n: best_of_n(candidates=n), problem(), network_passes=10)
    with pytest.raises(ValueError, match="does not change the price of evolution"):
        largest(lambda n: evolution(generations=n, schedule=()), problem(), network_passes=10**4)
