"""What one more image changes, against the distances themselves; and greedy search by it."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch import Objective, Problem, Prompts, sample, search_in_groups, solver_estimate
from jaxsearch.core.process import edm, karras
from jaxsearch.metrics import Statistics, frechet_distance, statistics_of
from jaxsearch.metrics.greedy import (
    gain,
    running,
    running_distance,
    statistics_of_running,
    take_in,
    terms,
)
from jaxsearch.searchers import best_of_n
from jaxsearch.solvers import heun
from jaxsearch.verifiers.frechet import FrechetOracle, frechet
from jaxsearch.zoo import digits as model
from jaxsearch.zoo.digits.data import splits
from jaxsearch.zoo.features import digits

GAIN = jax.jit(gain)


def exact(features: np.ndarray) -> Statistics:
    """In float64."""
    return Statistics(features.mean(0), np.cov(features.T), len(features))


@pytest.mark.parametrize(("size", "first"), [(8, 30), (30, 12)])
def test_the_gain_is_what_the_distance_loses(size, first):
    """With an eigenproblem for each candidate, in float64, also where no covariance has an inverse.

    20 images are taken in, and axes are computed anew after each 8 of them. Kills: images since
    then that do not count; the divisor; the mean; the sign.
    """
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(size, size)) / np.sqrt(size)
    reference = exact(0.5 + rng.normal(size=(200, size)) @ mix)
    there = 1.3 * rng.normal(size=(first, size)) @ mix
    population = running(reference, exact(there), most_recent=8)
    for _ in range(20):
        candidates = 0.3 + 1.2 * rng.normal(size=(4, size)) @ mix
        before = frechet_distance(reference, exact(there))
        with_each = [exact(np.concatenate([there, one[None]])) for one in candidates]
        wanted = [before - frechet_distance(reference, one) for one in with_each]
        found = GAIN(terms(population), jnp.asarray(candidates, jnp.float32))
        wanted = (len(there) + 1) * np.array(wanted)
        np.testing.assert_allclose(found, wanted, atol=5e-6 * np.abs(wanted).max())
        best = candidates[np.argmax(found)]
        there = np.concatenate([there, best[None]])
        population = take_in(population, best[None])
    assert population.number == len(there)
    np.testing.assert_allclose(
        running_distance(population), frechet_distance(reference, exact(there)), rtol=1e-6
    )
    np.testing.assert_allclose(
        statistics_of_running(population).covariance, np.cov(there.T), atol=1e-12
    )


def problem_with(*verifiers) -> Problem:
    denoiser = model.denoiser()
    return Problem(
        denoiser=denoiser,
        objective=Objective(decoder=model.decoder(enlarge=1), verifiers=verifiers),
        solver=heun(karras(edm(), num_steps=4)),
        value=solver_estimate(),
    )


def any_digits(num: int) -> Prompts:
    return Prompts(ids=jnp.arange(num), cond=jnp.full(num, model.NO_LABEL, jnp.int32))


def test_greedy_search_lowers_the_distance():
    """Kills: a population that stays as it was; another candidate than the best taken in.

    Prompt by prompt, against the same choice made with the exact distances.
    """
    extractor, decoder = digits(), model.decoder(enlarge=1)
    extract = jax.jit(lambda x: extractor.apply(extractor.params, decoder(x)).features)
    real = statistics_of(extract(jnp.asarray(splits().held_out.pixels)))
    plain = sample(jax.random.key(1), problem_with(), any_digits(100)).x
    oracle = FrechetOracle(extractor, running(real, statistics_of(extract(plain)), most_recent=5))
    problem, prompts, key = problem_with(oracle.verifier), any_digits(12), jax.random.key(0)
    results = list(
        search_in_groups(key, best_of_n(candidates=6), problem, prompts, group=1, after=oracle)
    )
    found = extract(jnp.concatenate([one.particle.x for one in results]))
    taken = statistics_of(jnp.concatenate([extract(plain), found[:-1]]))
    known = statistics_of_running(oracle.population)
    assert known.number == 111  # what the last group finds is judged, and not taken in
    np.testing.assert_allclose(known.mean, taken.mean, rtol=1e-5)
    np.testing.assert_allclose(known.covariance, taken.covariance, atol=1e-3)

    others = extract(sample(key, problem_with(), prompts).x)

    def with_more(more):
        return frechet_distance(statistics_of(jnp.concatenate([extract(plain), more])), real)

    assert with_more(found) < 0.99 * with_more(others)
    # The scores are those of the population at their time: so much less is the distance now.
    first = (with_more(found[:0]) - with_more(found[:1])) * 101
    np.testing.assert_allclose(results[0].score[0], first, rtol=1e-2)
    second = (with_more(found[:1]) - with_more(found[:2])) * 102
    np.testing.assert_allclose(results[1].score[0], second, rtol=1e-2)


def test_a_new_population_makes_no_new_program():
    features = np.random.default_rng(0).normal(size=(30, 64)).astype(np.float32)
    population = running(statistics_of(features), statistics_of(features[:9]), most_recent=3)
    structures = set()
    for _ in range(5):
        verifier = frechet(digits(), population)
        structures.add(jax.tree.structure(verifier))
        population = take_in(population, features[:1])
    assert len(structures) == 1


def test_bad_input():
    one = Statistics(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="the first population has None images"):
        running(one, one)
    with pytest.raises(ValueError, match="2 features on one side and 3 on the other"):
        running(one, Statistics(np.zeros(3), np.eye(3), 9))
    with pytest.raises(ValueError, match="most_recent is 0"):
        running(one, one._replace(number=5), most_recent=0)
    population = running(one, one._replace(number=5))
    with pytest.raises(ValueError, match="not finite for 1 of 1 images"):
        take_in(population, np.full((1, 2), np.nan))
    wrong = search_in_groups(
        jax.random.key(0), best_of_n(), problem_with(), any_digits(4), group=3, after=lambda p, _: p
    )
    with pytest.raises(ValueError, match=re.escape("group is 3, but there are 4 prompts")):
        next(wrong)
