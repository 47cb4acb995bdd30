"""Soft value-based decoding against the law of its choices, which a linear-Gaussian sampler has."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.search import search
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation
from jaxsearch.core.value import lookahead
from jaxsearch.searchers import best_of_n, svdd
from tests import toys

PIXELS = int(np.prod(toys.LINEAR_SHAPE))


def problem():
    return toys.linear_problem(toys.linear_solver(), value=lookahead())


@functools.partial(jax.jit, static_argnames=("candidates", "num_prompts"))
def _finished(problem, temperature, *, candidates: int, num_prompts: int):
    one = svdd(particles=1, candidates=candidates, temperature=temperature)
    return search(jax.random.key(2), one, problem, toys.prompts(num_prompts)).score


def finished(temperature: float, **sizes: int) -> np.ndarray:
    """Mean pixels of the samples of single particles; the temperature is traced."""
    return np.asarray(_finished(problem(), temperature, **sizes))


def shifted(chosen) -> tuple[float, float]:
    """Mean of the final mean pixel, and by how much it is moved.

    `chosen(gain)` is the mean of the chosen noise's mean pixel, of which the score gains `gain` per
    unit. Scores are linear, so siblings differ by their noise alone and the steps add up.
    """
    affine = toys.affine(toys.linear_solver())
    shift = 0.0
    for a, c, slope in zip(affine.a, affine.c, affine.slope, strict=True):
        shift = a * shift + (c * chosen(slope * c) if c > 0 else 0.0)
    return affine.final[0] + shift, shift


def test_the_greedy_choice_of_two_is_the_larger():
    """At temperature 0; the larger of two Gaussians is 1/sqrt(pi) standard deviations on average.

    Kills: the worst; a child of another particle; a temperature that cannot be traced.
    """
    found = finished(0.0, candidates=2, num_prompts=2400)
    expected, shift = shifted(lambda gain: 1 / np.sqrt(np.pi * PIXELS))
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.3 * error < 0.15 * shift


def test_the_soft_choice_of_two_is_the_softmax():
    """Of two noises that differ by D the mean of the chosen one is E[D/2 tanh(gain*D/2T)].

    Kills: the temperature multiplied instead of divided, or squared; no draw; one draw for all.
    """
    temperature = 0.2
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    difference = nodes * np.sqrt(2 / PIXELS)
    weights = weights / weights.sum()

    def chosen(gain: float) -> float:
        return float(weights @ (difference / 2 * np.tanh(gain * difference / (2 * temperature))))

    found = finished(temperature, candidates=2, num_prompts=2400)
    expected, shift = shifted(chosen)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.3 * error < 0.2 * shift
    greedy = shifted(lambda gain: 1 / np.sqrt(np.pi * PIXELS))[1]
    assert shift + 6 * error < greedy


def test_many_children_give_the_tilted_steps():
    """Each step's noise tilted by exp(score/temperature): its mean moves, its variance stays."""
    temperature = 0.3
    found = finished(temperature, candidates=64, num_prompts=400)
    expected, shift = shifted(lambda gain: gain / temperature / PIXELS)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - expected) < 3.3 * error + 0.05 * shift
    variance = toys.affine(toys.linear_solver()).final[1]
    assert abs(found.var() / variance - 1) < 3.3 * np.sqrt(2 / len(found)) + 0.05


def test_particles_choose_among_their_own_children():
    """Each of three particles goes on from its own best child, whatever the others score.

    Kills: the best over particles instead of children; a child of another particle.
    """
    one = svdd(particles=3, candidates=2)
    state = one.init(noise_space(problem(), 1), jax.random.key(0))
    stage = stages_of(one, problem())[0]
    proposal = stage.ask(jax.random.key(0), jnp.int32(0), state)
    np.testing.assert_array_equal(proposal.parent.x, jnp.tile(state.particles.x, (2, 1, 1, 1)))
    score = jnp.asarray([0.1, 5.0, 0.3, 0.2, 4.0, -jnp.inf])
    names = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], proposal.parent.x.shape)
    evaluation = Evaluation(proposal.parent._replace(x=names), score, score[:, None])
    after = stage.tell(jax.random.key(0), jnp.int32(0), state, proposal, evaluation)
    np.testing.assert_array_equal(after.particles.x[:, 0, 0, 0], [3, 1, 2])


def test_particles_of_one_child_are_independent_samples():
    """Kills: particles that compete; a key path of its own."""
    prompts = toys.prompts(4)
    one = search(jax.random.key(0), svdd(particles=4, candidates=1), problem(), prompts)
    other = search(jax.random.key(0), best_of_n(candidates=4), problem(), prompts)
    np.testing.assert_allclose(one.particle.x, other.particle.x, atol=2e-6)


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
