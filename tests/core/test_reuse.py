"""Equal settings are one object, so that a search that is asked for again is not compiled again."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxsearch.core.process import SCHEDULES, edm, flow, variance_preserving
from jaxsearch.core.reuse import reused
from jaxsearch.core.search import search
from jaxsearch.core.types import Searcher
from jaxsearch.core.value import VALUES
from jaxsearch.searchers import SEARCHERS, best_of_n, evolution, smc
from jaxsearch.searchers.early_stop import early_stop
from jaxsearch.solvers import SOLVERS, heun
from jaxsearch.verifiers import VERIFIERS
from tests import toys


@pytest.mark.parametrize("name", SEARCHERS)
def test_searchers(name):
    one = SEARCHERS[name]()
    assert one is SEARCHERS[name]()
    assert early_stop(one, threshold=0.5) is early_stop(one, threshold=0.5)
    assert early_stop(one, threshold=0.5) is not early_stop(one, threshold=0.6)


def test_everything_else():
    vp = variance_preserving(beta_start=1e-4, beta_end=0.02, shape="linear")
    for name, schedule in SCHEDULES.items():
        process = vp if name == "trained_steps" else flow()
        visited = schedule(process, num_steps=7)
        assert visited is schedule(process, num_steps=7)
        assert visited is not schedule(process, num_steps=8)
        for solver in SOLVERS.values() if name == "karras" else ():
            assert solver(visited) is solver(visited)
    for registry in (VALUES, VERIFIERS):
        for make in registry.values():
            assert make() is make()


def test_a_search_of_equal_settings_is_traced_once():
    base = toys.problem(heun(SCHEDULES["karras"](edm(), num_steps=3)))
    denoiser, counter = toys.counting(base.denoiser)
    for _ in range(2):
        solver = heun(SCHEDULES["karras"](edm(), num_steps=3))
        problem = toys.problem(solver, denoiser=denoiser)
        search(jax.random.key(0), best_of_n(candidates=2), problem, toys.prompts(2))
    assert counter.traces == 2  # both calls of a step, once


def test_numbers_that_are_equal_may_still_be_refused():
    """Kills: `True` taken for the 1 that was asked for before."""
    best_of_n(candidates=1)
    with pytest.raises(ValueError, match="candidates is True"):
        best_of_n(candidates=True)


def test_what_cannot_be_hashed_makes_a_new_one():
    made = jax.jit(lambda strength: smc(strength=strength).init is not None)(jnp.float32(2.0))
    assert bool(made)
    assert isinstance(evolution(population=[4, 3], schedule=(0,)), Searcher)


def test_an_error_of_the_factory_is_its_own():
    """Kills: a `TypeError` from within taken for one of the arguments."""
    calls = []

    @reused
    def factory(*, size: int) -> object:
        calls.append(size)
        raise TypeError("from within")

    with pytest.raises(TypeError, match="from within"):
        factory(size=1)
    assert calls == [1]
