"""Best-of-N: nested candidates, the exact best, the shared initial noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import fresh_trajectory
from jaxsearch.core.replay import replay
from jaxsearch.core.search import search
from jaxsearch.core.space import noise_space
from jaxsearch.searchers import best_of_n
from tests import cases, toys


def candidate_scores(key, problem, prompts, num: int) -> np.ndarray:
    """Scores [P, num] of the first candidates, each made alone from the documented key path."""
    space, columns = noise_space(problem, 1), []
    for candidate in range(num):
        rows = []
        for prompt in np.asarray(prompts.ids):
            init = jax.random.fold_in(jax.random.fold_in(key, int(prompt)), 0)
            rows.append(fresh_trajectory(space, jax.random.fold_in(init, candidate)))
        noise = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        images = problem.objective.decoder(replay(problem, noise, prompts).x)
        columns.append(np.asarray(toys.bright(images, {})))
    return np.stack(columns, axis=1)


def test_it_is_the_best_of_the_first_candidates():
    """Kills: another key path; the last instead of the best; candidates that do not nest."""
    key, problem, prompts = (
        jax.random.key(3),
        toys.problem(cases.solvers()["ddpm"]),
        toys.prompts(3),
    )
    scores = candidate_scores(key, problem, prompts, 5)
    for num in (2, 5):
        found = search(key, best_of_n(candidates=num), problem, prompts)
        np.testing.assert_allclose(found.score, scores[:, :num].max(axis=1), atol=1e-6)
    assert np.any(scores.argmax(axis=1) > 1)


def test_shared_initial_noise_is_shared():
    key, problem = jax.random.key(3), toys.problem(cases.solvers()["ddpm"])
    one = best_of_n(candidates=6, share_initial_noise=True)
    noise = search(key, one, problem, toys.prompts(3)).particle.noise
    plain = search(key, best_of_n(candidates=1), problem, toys.prompts(3)).particle.noise
    data = jax.random.key_data
    np.testing.assert_array_equal(data(noise.keys[:, 0]), data(plain.keys[:, 0]))
    assert np.any(np.asarray(data(noise.keys[:, 1:])) != np.asarray(data(plain.keys[:, 1:])))


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="candidates is 0"):
        best_of_n(candidates=0)
