"""A search watched round by round is the search, and the way of a sample ends in the sample."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.replay import replay, retrace
from jaxsearch.core.search import search
from jaxsearch.core.types import Noise, SearchState
from jaxsearch.core.watch import Tried, fingerprint, watch
from tests import cases, toys

PROMPTS = toys.prompts(3)
PROBLEM = toys.problem(cases.solvers()["heun_edm"])
KEY = jax.random.key(3)
# By step, of a tree, renoised on the way, with a free part.
by_searcher = pytest.mark.parametrize("searcher", ["epsilon_greedy", "mcts", "paths", "gradient"])


@functools.cache
def watched(searcher: str) -> tuple[SearchState, tuple[Tried, ...]]:
    states, rounds = zip(
        *watch(KEY, cases.SEARCHERS[searcher].searcher, PROBLEM, PROMPTS), strict=True
    )
    return states[-1], rounds


@by_searcher
def test_what_is_watched_is_the_search(searcher: str) -> None:
    """Kills: a round that is told to another stage; the state before a round handed back."""
    result = search(KEY, cases.SEARCHERS[searcher].searcher, PROBLEM, PROMPTS)
    state, rounds = watched(searcher)
    np.testing.assert_allclose(state.score, result.score, atol=1e-6)
    assert len(rounds) == len(result.trace.best)
    best = np.stack([tried.score.max(axis=1) for tried in rounds])
    np.testing.assert_allclose(best, result.trace.current, atol=1e-6)


@by_searcher
def test_the_found_sample_is_among_those_tried(searcher: str) -> None:
    """Kills: a fingerprint of too many noises, or of none; steps of the parent for the child's."""
    state, rounds = watched(searcher)
    active = PROBLEM.solver.active
    end = np.asarray(fingerprint(state.best.noise, active, state.best.legs))
    for prompt in range(3):
        won = [
            score
            for tried in rounds
            for score, way, step, before in zip(
                *(leaf[prompt] for leaf in (tried.score, tried.way, tried.end, tried.begin)),
                strict=True,
            )
            if step == cases.NUM_STEPS > before and np.array_equal(way, end[prompt])
        ]
        assert won
        np.testing.assert_allclose(won, state.score[prompt], atol=1e-6)
    ends = np.concatenate([tried.way[0] for tried in rounds])
    assert len(np.unique(ends, axis=0)) > 1


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

    def numbers(changed: Noise, active: bool = True) -> list[int]:
        return np.asarray(fingerprint(changed, (active,))).tolist()

    own = numbers(noise)
    longer = Noise(jnp.concatenate([keys, keys], axis=1), jnp.pad(noise.coefs, ((0, 0), (0, 3))))
    assert numbers(longer) == own
    assert numbers(Noise(keys[:, ::-1], noise.coefs[:, ::-1])) == own
    assert numbers(noise, active=False) == [own[0], 0]
    for other in (
        Noise(keys[::-1], noise.coefs),
        Noise(keys, noise.coefs * 1.0000001),
        Noise(keys, noise.coefs, jnp.full((2, 4), 1e-9)),
    ):
        assert not set(numbers(other)) & set(own)
    plain, moved = (Noise(keys, noise.coefs, jnp.zeros((2, 4)).at[0, 1].set(x)) for x in (0.0, 1.0))
    assert numbers(plain)[1] == numbers(moved)[1]
    assert numbers(plain)[0] != numbers(moved)[0]
