"""A searcher whose numbers are arguments: one program for all of them, and the same search."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxsearch.core.search import result_of, search, search_in_chunks
from jaxsearch.core.traced import traced
from jaxsearch.searchers import epsilon_greedy, gradient, halving, zero_order
from jaxsearch.searchers.early_stop import early_stop
from tests import toys

PROMPTS = toys.prompts(3)


def found(one, problem):
    *_, last = search_in_chunks(jax.random.key(2), one, problem, PROMPTS, rounds_per_chunk=99)
    return result_of(last)


def counting():
    """A problem, and a list that grows whenever its network is traced."""
    base, traces = toys.problem(toys.linear_solver()), []

    def apply(params, x, t, cond):
        traces.append(x.shape)
        return base.denoiser.apply(params, x, t, cond)

    return dataclasses.replace(
        base, denoiser=dataclasses.replace(base.denoiser, apply=apply)
    ), traces


MAKES = {
    "two numbers": lambda v: traced(
        epsilon_greedy, candidates=2, iterations=3, epsilon=v, radius=v / 2
    ),
    "a wrapper": lambda v: traced(
        early_stop, traced(zero_order, neighbours=2, iterations=4, step=v), threshold=v
    ),
}


@pytest.mark.parametrize("name", MAKES)
def test_other_numbers_share_the_program(name):
    """Kills: a number that is a part of what a program is compiled for."""
    make, (problem, traces) = MAKES[name], counting()
    first, one = make(0.2), found(make(0.2), problem)
    num = len(traces)
    assert num > 0
    other = found(make(0.9), problem)
    assert len(traces) == num
    assert not np.allclose(one.particle.x, other.particle.x)
    alone = search(jax.random.key(2), first(), problem, PROMPTS)
    np.testing.assert_allclose(one.score, alone.score, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(one.cost.network_passes, alone.cost.network_passes)


def test_what_decides_on_the_program_is_no_argument():
    """Kills: a setting that is looked at and traced all the same."""
    one = traced(halving, keep=0.5, candidates=4)
    assert not one.numbers
    assert dict(one.fixed) == {"keep": 0.5, "candidates": 4}
    # 0 is none here, and anything else would be refused.
    one = traced(gradient, iterations=2, regularisation=0.0, learning_rate=0.1)
    assert set(one.numbers) == {"learning_rate"}
    with pytest.raises(ValueError, match="epsilon is 2"):
        traced(epsilon_greedy, epsilon=2.0)


def test_lists_and_pairs_of_a_config_may_be_given():
    one = traced(epsilon_greedy, window=[0.1, 10.0], candidates=2, iterations=2)
    assert dict(one.fixed)["window"] == (0.1, 10.0)
    hash(one.fixed)
