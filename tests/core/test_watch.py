"""A search watched round by round is the search, and the way of a sample ends in the sample."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.replay import replay, retrace
from jaxsearch.core.search import result_of, search_in_chunks
from jaxsearch.core.types import Legs, Noise, SearchState
from jaxsearch.core.watch import Tried, fingerprint, watch
from tests import cases, toys

PROMPTS = toys.prompts(3)
PLACES = (2, 0)
PROBLEM = toys.problem(cases.solvers()["heun_edm"])
KEY = jax.random.key(3)
# By step, of a tree, renoised on the way, with a free part.
by_searcher = pytest.mark.parametrize("searcher", ["epsilon_greedy", "mcts", "paths", "gradient"])


@functools.cache
def watched(searcher: str) -> tuple[SearchState, list[Tried]]:
    """The last state, and what was tried for prompts 2 and 0."""
    one = cases.SEARCHERS[searcher].searcher
    states, rounds = zip(*watch(KEY, one, PROBLEM, PROMPTS, PLACES), strict=True)
    return states[-1], [tried for together in rounds for tried in together]


@by_searcher
def test_what_is_watched_is_the_search(searcher: str) -> None:
    """Kills: a round that is told to another stage; the state before a round handed back."""
    *_, last = search_in_chunks(
        KEY, cases.SEARCHERS[searcher].searcher, PROBLEM, PROMPTS, rounds_per_chunk=100
    )
    result = result_of(last)
    state, rounds = watched(searcher)
    np.testing.assert_array_equal(state.score, result.score)
    exactly = [
        fingerprint(one.noise, PROBLEM.solver.active, one.legs, exact=True)
        for one in (state.best, result.particle)
    ]
    np.testing.assert_array_equal(*exactly)
    assert len(rounds) == len(result.trace.best)
    best = np.stack([tried.score.max(axis=1) for tried in rounds])
    np.testing.assert_allclose(best, result.trace.current[:, jnp.asarray(PLACES)], atol=1e-5)


@by_searcher
def test_the_found_sample_is_among_those_tried(searcher: str) -> None:
    """Kills: a fingerprint of too many noises, or of none; steps of the parent for the child's."""
    state, rounds = watched(searcher)
    active = PROBLEM.solver.active
    end = np.asarray(fingerprint(state.best.noise, active, state.best.legs))
    for index, prompt in enumerate(PLACES):
        won = [
            score
            for tried in rounds
            for score, way, step, before in zip(
                *(leaf[index] for leaf in (tried.score, tried.way, tried.end, tried.begin)),
                strict=True,
            )
            if step == cases.NUM_STEPS > before and np.array_equal(way, end[prompt])
        ]
        assert won
        # Of a gradient's iterations all have the same keys.
        assert np.min(np.abs(np.asarray(won) - state.score[prompt])) < 1e-5
    ends = np.concatenate([tried.way[0] for tried in rounds])
    assert (len(np.unique(ends, axis=0)) > 1) == (searcher != "gradient")


@by_searcher
def test_the_way_of_a_sample_ends_in_it(searcher: str) -> None:
    """Kills: a noise of the step before; a leg that is not gone."""
    best = watched(searcher)[0].best
    latents, taken = retrace(
        PROBLEM, best.noise, PROMPTS, lambda problem, latents, context: latents, legs=best.legs
    )
    assert taken.shape == (cases.NUM_STEPS, 3)
    assert bool(taken[-1].all())
    assert bool(taken.all()) == (searcher != "paths")
    again = replay(PROBLEM, best.noise, PROMPTS, legs=best.legs)
    np.testing.assert_allclose(latents[-1], again.x, atol=1e-6)
    assert not np.allclose(latents[-1], latents[-2], atol=1e-3)


def test_a_fingerprint_is_of_the_noise_alone() -> None:
    """Kills: a key or a coefficient left out; terms without an effect that count."""
    keys = jax.random.split(jax.random.key(0), (2, 3))
    noise = Noise(keys, jnp.asarray([[1.0, 0.5, 0.0], [0.3, 0.0, 0.7]]))

    def numbers(changed: Noise, *, exact: bool = True, active: bool = True) -> list[int]:
        return np.asarray(fingerprint(changed, (active,), exact=exact)).tolist()

    longer = Noise(jnp.concatenate([keys, keys], axis=1), jnp.pad(noise.coefs, ((0, 0), (0, 3))))
    rounded, freed = (
        noise._replace(coefs=noise.coefs * 1.0000001),
        jnp.zeros((2, 4)).at[0, 1].set(1),
    )
    for exact in (False, True):
        own = numbers(noise, exact=exact)
        assert numbers(longer, exact=exact) == own
        assert numbers(Noise(keys[:, ::-1], noise.coefs[:, ::-1]), exact=exact) == own
        assert numbers(noise, exact=exact, active=False) == [own[0], 0]
        assert not set(numbers(Noise(keys[::-1], noise.coefs), exact=exact)) & set(own)
        fewer = noise._replace(coefs=noise.coefs * jnp.asarray([[1.0, 0, 0], [0, 0, 1]]))
        assert not set(numbers(fewer, exact=exact)) & set(own)
        assert (numbers(rounded, exact=exact) == own) != exact
        free = [numbers(noise._replace(free=f), exact=exact) for f in (freed * 0, freed)]
        assert (free[0][0] == free[1][0]) != exact
        assert free[0][1] == free[1][1]


def test_what_was_before_a_renoising_counts_for_the_initial_noise() -> None:
    """Kills: legs left out; legs that were never gone taken for some."""
    noise = Noise(jax.random.split(jax.random.key(0), (2, 1)), jnp.ones((2, 1)))
    before = Noise(jax.random.split(jax.random.key(1), (1, 2, 1)), jnp.ones((1, 2, 1)))

    def numbers(legs: Legs | None) -> list[int]:
        return np.asarray(fingerprint(noise, (True,), legs)).tolist()

    def leg(end: int, back: int, noise: Noise = before) -> Legs:
        return Legs(noise, jnp.asarray([end], jnp.int32), jnp.asarray([back], jnp.int32))

    own, gone = numbers(None), numbers(leg(2, 1))
    assert numbers(leg(0, 0)) == own
    other = Noise(before.keys[:, ::-1], before.coefs)
    assert gone[0] != own[0]
    assert gone[1] == own[1]
    assert gone[0] not in (numbers(leg(3, 1))[0], numbers(leg(2, 1, other))[0])
