"""Calls that would fail later on, or work and mean something else, are refused in one line."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.host import search_on_host
from jaxsearch.core.process import edm, karras
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.searchers import SEARCHERS, best_of_n, epsilon_greedy, zero_order
from jaxsearch.solvers import heun
from tests import cases, toys

SEARCHER = best_of_n(candidates=2)


def call(key=None, prompts=None, verifiers=(toys.bright,), solver="ddim", **kwargs):
    key = jax.random.key(0) if key is None else key
    problem = toys.problem(cases.solvers()[solver], verifiers=verifiers)
    if solver == "heun_edm":
        ddim = toys.problem(cases.solvers()["ddim"])
        problem = dataclasses.replace(problem, denoiser=ddim.denoiser)
    return search(key, SEARCHER, problem, prompts or toys.prompts(2), **kwargs)


def mesh(name):
    return jax.make_mesh((2,), (name,), axis_types=(jax.sharding.AxisType.Auto,))


CALLS = {
    "raw_key": (lambda: call(jax.random.PRNGKey(0)), r"the key is a uint32 \(2,\): pass one"),
    "many_keys": (lambda: call(jax.random.split(jax.random.key(0), 2)), "pass one jax.random.key"),
    "no_prompts": (lambda: call(prompts=toys.prompts(0)), r"prompts.ids has the shape \(0,\)"),
    "cond": (
        lambda: call(prompts=toys.prompts(2)._replace(cond=jnp.zeros(3))),
        r"prompts.cond has the shape \(3,\) for 2 prompts",
    ),
    "context": (
        lambda: call(prompts=toys.prompts(2)._replace(context={"target": jnp.zeros(())})),
        r"prompts.context\['target'\] has the shape \(\) for 2 prompts",
    ),
    "no_verifier": (lambda: call(verifiers=()), "the objective has no verifier"),
    "microbatch": (lambda: call(microbatch=0), "microbatch is 0"),
    "microbatch_negative": (lambda: call(microbatch=-3), "microbatch is -3"),
    "mesh": (lambda: call(mesh=mesh("data")), r"axes \('data',\): name one of them 'particle'"),
    "process": (lambda: call(solver="heun_edm"), "kind edm, but .* kind variance_preserving"),
    "host": (lambda: list(host_with_changing_verifiers()), "returned 2 numbers .* but 1 before"),
}


def host_with_changing_verifiers():
    rounds = iter((1, 2))

    def score(images, ids):
        return np.zeros((len(images), next(rounds)))

    problem = toys.problem(cases.solvers()["ddim"])
    one = cases.SEARCHERS["zero_order"].searcher
    return search_on_host(jax.random.key(0), one, problem, toys.prompts(2), score)


@pytest.mark.parametrize("mistake", CALLS)
def test_a_call_that_makes_no_sense_is_refused(mistake):
    """Kills: each check removed; scores of the host silently begun anew."""
    make, message = CALLS[mistake]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_host_search_needs_no_verifier_of_its_own():
    problem = toys.problem(cases.solvers()["ddim"], verifiers=())
    ones = lambda images, ids: np.ones(len(images))  # noqa: E731
    *_, last = search_on_host(jax.random.key(0), SEARCHER, problem, toys.prompts(2), ones)
    np.testing.assert_array_equal(last.score, [1, 1])


def test_chunks_refuse_what_search_refuses():
    problem = toys.problem(cases.solvers()["ddim"])
    with pytest.raises(TypeError, match="the key is a uint32"):
        next(
            search_in_chunks(
                jax.random.PRNGKey(0), SEARCHER, problem, toys.prompts(2), rounds_per_chunk=1
            )
        )


COUNTS = [
    (name, setting)
    for name, setting in {
        "best_of_n": "candidates",
        "epsilon_greedy": "candidates",
        "zero_order": "neighbours",
    }.items()
] + [("epsilon_greedy", "iterations"), ("zero_order", "iterations")]


@pytest.mark.parametrize(("searcher", "setting"), COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.5, 4.0, True, "4", 10**6 + 1])
def test_a_count_is_a_whole_number(searcher, setting, value):
    """Kills: fractions that are cut off, numbers that wrap around on the device."""
    with pytest.raises(ValueError, match=setting):
        SEARCHERS[searcher](**{setting: value})


def test_numpy_counts_are_whole_numbers():
    """Kills: `isinstance(iterations, int)`, which takes a NumPy integer for a list."""
    problem, key = toys.problem(cases.solvers()["heun_edm"]), jax.random.key(0)
    of_numpy = epsilon_greedy(candidates=np.int64(2), iterations=np.int32(2))
    plain = epsilon_greedy(candidates=2, iterations=2)
    one, other = (search(key, s, problem, toys.prompts(2)) for s in (of_numpy, plain))
    np.testing.assert_array_equal(one.score, other.score)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_are_finite(value):
    """Kills: an open end that takes infinity in."""
    for make in (
        lambda: epsilon_greedy(radius=value),
        lambda: epsilon_greedy(epsilon=value),
        lambda: zero_order(step=value, geometry="distance"),
        lambda: heun(karras(edm()), noise_inflation=value),
    ):
        with pytest.raises(ValueError, match=f"is {value}"):
            make()


def test_churn_may_have_no_upper_end():
    assert heun(karras(edm()), churn_max=np.inf).active[0]


def test_check_range_says_which_ends_belong():
    for kwargs, shown in (
        ({"low": 0.0}, r"\[0, inf\)"),
        ({"low": 0.0, "high": 1.0, "open_low": True}, r"\(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=rf"x is -1: it must lie in {shown}"):
            check_range("x", -1, **kwargs)
    check_range("x", 1.0, 0.0, 1.0)
    check_count("x", 0, 0)
