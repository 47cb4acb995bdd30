"""Soft value-based decoding against the law of its choices, which a linear-Gaussian sampler has."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.value import lookahead
from jaxsearch.searchers import best_of_n, svdd
from tests import cases, toys

PIXELS = int(np.prod(toys.LINEAR_SHAPE))


def finished(searcher, num_prompts: int) -> np.ndarray:
    """Mean pixels of all particles of all prompts."""
    problem = toys.linear_problem(cases.solvers()["ddpm"], value=lookahead)
    *_, last = search_in_chunks(
        jax.random.key(2), searcher, problem, toys.prompts(num_prompts), rounds_per_chunk=99
    )
    return np.asarray(last.searcher.particles.x).mean(axis=(2, 3, 4)).ravel()


def shifted(chosen) -> tuple[float, float]:
    """Mean of the final mean pixel, and by how much it is moved.

    `chosen(gain)` is the mean of the chosen noise's mean pixel, of which the score gains `gain` per
    unit. Scores are linear, so siblings differ by their noise alone and the steps add up.
    """
    affine = toys.affine(cases.solvers()["ddpm"])
    shift = 0.0
    for a, c, slope in zip(affine.a, affine.c, affine.slope, strict=True):
        shift = a * shift + (c * chosen(slope * c) if c > 0 else 0.0)
    return affine.final[0] + shift, shift


def test_greedy_children_have_the_mean_of_the_largest_of_four():
    """E of the largest of four Gaussians is 1.02938 standard deviations.

    Kills: the best over particles instead of children; a child of another particle; the worst.
    """
    found = finished(svdd(particles=4, candidates=4, temperature=0.0), 300)
    expected, shift = shifted(lambda gain: 1.02938 / np.sqrt(PIXELS))
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.3 * error < 0.1 * shift


def test_soft_choice_of_two_is_the_softmax():
    """Of two noises that differ by D the mean of the chosen one is E[D/2 tanh(gain*D/2T)].

    Kills: the temperature multiplied instead of divided, or squared; no draw; one draw for all.
    """
    temperature = 0.2
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    difference = nodes * np.sqrt(2 / PIXELS)
    weights = weights / weights.sum()

    def chosen(gain: float) -> float:
        return float(weights @ (difference / 2 * np.tanh(gain * difference / (2 * temperature))))

    found = finished(svdd(particles=4, candidates=2, temperature=temperature), 600)
    expected, shift = shifted(chosen)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.3 * error < 0.15 * shift
    greedy = shifted(lambda gain: np.sqrt(1 / np.pi / PIXELS))[1]
    assert shift < 0.8 * greedy


def test_many_children_give_the_tilted_steps():
    """Each step's noise tilted by exp(score/temperature): its mean moves, its variance stays."""
    temperature = 0.3
    found = finished(svdd(particles=4, candidates=64, temperature=temperature), 100)
    expected, shift = shifted(lambda gain: gain / temperature / PIXELS)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.3 * error + 0.05 * shift
    variance = toys.affine(cases.solvers()["ddpm"]).final[1]
    assert abs(found.var() / variance - 1) < 3.3 * np.sqrt(2 / len(found)) + 0.05


def test_particles_of_one_child_are_independent_samples():
    """Kills: particles that compete; a key path of its own."""
    problem, prompts = toys.problem(cases.solvers()["heun_edm"]), toys.prompts(4)
    one = search(jax.random.key(0), svdd(particles=4, candidates=1), problem, prompts)
    other = search(jax.random.key(0), best_of_n(candidates=4), problem, prompts)
    np.testing.assert_allclose(one.particle.x, other.particle.x, atol=2e-6)


def test_temperature_may_be_traced():
    problem, prompts = toys.problem(cases.solvers()["heun_edm"]), toys.prompts(4)

    def score(temperature):
        one = svdd(particles=1, candidates=3, temperature=temperature)
        return search(jax.random.key(0), one, problem, prompts).score

    fixed = score(0.05)
    score = jax.jit(score)
    np.testing.assert_allclose(score(jnp.float32(0.05)), fixed, atol=2e-6)
    assert not np.allclose(score(jnp.float32(0.0)), score(jnp.float32(10.0)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 0}, "particles is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        svdd(**settings)
