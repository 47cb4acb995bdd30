"""The host loop: the same search, its verifier a function on the host."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxsearch.core.host import Graded, search_on_host
from jaxsearch.core.search import result_of, search
from tests import cases, toys


def mean_pixel(images: np.ndarray, ids: np.ndarray) -> np.ndarray:
    assert images.shape[0] == len(ids)
    return images.mean(axis=(1, 2, 3))


@pytest.mark.parametrize("searcher", ["epsilon_greedy", "paths_uneven", "rollover", "mcts_stops"])
def test_host_scores_lead_to_the_same_search(searcher):
    """Kills: scores handed to other candidates; a round's keys or cost that differ on the host; a
    candidate that rests and is asked for.
    """
    key, one = jax.random.key(7), cases.SEARCHERS[searcher].searcher
    problem, prompts = toys.problem(cases.solvers()["heun_edm"]), toys.prompts(4)
    asked = dict.fromkeys(np.asarray(prompts.ids).tolist(), 0)

    def score(images, ids):
        assert len(images) > 0
        for prompt in ids.tolist():
            asked[prompt] += 1
        return mean_pixel(images, ids)

    *_, last = search_on_host(key, one, problem, prompts, score)
    on_host, on_device = result_of(last), search(key, one, problem, prompts)
    np.testing.assert_allclose(on_host.score, on_device.score, atol=2e-6)
    np.testing.assert_allclose(on_host.particle.x, on_device.particle.x, atol=2e-5)
    for one_field, other in zip(on_host.cost, on_device.cost, strict=True):
        np.testing.assert_array_equal(one_field, other)
    np.testing.assert_array_equal(on_host.cost.verifier_calls, list(asked.values()))


@pytest.mark.parametrize(("searcher", "samples"), [("zero_order", 9), ("evolution", 12)])
def test_it_goes_on_from_any_round_and_takes_several_scores(searcher, samples):
    """Evolution keeps the scores by guide. Kills: a state made for as many as the problem names."""
    key, one = jax.random.key(7), cases.SEARCHERS[searcher].searcher
    problem, prompts = toys.problem(cases.solvers()["ddim"]), toys.prompts(3)

    def two(images, ids):
        return np.stack([mean_pixel(images, ids), -mean_pixel(images, ids) / 2], axis=-1)

    states = list(search_on_host(key, one, problem, prompts, two))
    assert states[-1].scores.shape == (3, 2)
    assert np.all(np.asarray(states[-1].cost.verifier_calls) == 2 * samples)
    *_, again = search_on_host(key, one, problem, prompts, two, state=states[0])
    np.testing.assert_array_equal(again.score, states[-1].score)


def test_a_host_verifier_that_fails_or_returns_nonsense():
    key, one = jax.random.key(7), cases.SEARCHERS["best_of_n"].searcher
    problem, prompts = toys.problem(cases.solvers()["ddim"]), toys.prompts(2)
    with pytest.raises(ValueError, match=r"score returned the shape \(2,\) for images \(8, 4, 4"):
        list(search_on_host(key, one, problem, prompts, lambda images, ids: np.zeros(2)))
    wrong = Graded(np.zeros((8, 2)), np.ones((8, 1), bool))
    with pytest.raises(ValueError, match=r"scores of the shape \(8, 2\) and asked \(8, 1\)"):
        list(search_on_host(key, one, problem, prompts, lambda images, ids: wrong))
    *_, last = search_on_host(
        key, one, problem, prompts, lambda images, ids: np.full(len(images), np.nan)
    )
    assert np.all(np.isneginf(np.asarray(last.score)))
    assert np.all(np.asarray(last.best.step) == cases.NUM_STEPS)
