"""Sequential Monte Carlo against the tilted law of a linear-Gaussian sampler, and term by term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation
from jaxsearch.searchers import best_of_n, smc
from tests import cases, toys

WEIGHTED = [
    {"threshold": 1.0},
    {"threshold": 1.0, "potential": "max"},
    {"threshold": 1.0, "potential": "sum", "tempering": "linear"},
    {"threshold": 1.0, "resampling": "multinomial", "tempering": "linear"},
    {"threshold": 1.0, "resampling": "residual", "potential": "max", "every": 2},
    {"threshold": 0.9, "potential": "sum", "resampling": "stratified", "window": (0.3, 3.0)},
]


def last_state(searcher, problem, num_prompts: int):
    """The searcher's state at the end, with one entry per prompt."""
    *_, last = search_in_chunks(
        jax.random.key(6), searcher, problem, toys.prompts(num_prompts), rounds_per_chunk=99
    )
    return last.searcher


@pytest.mark.parametrize("settings", WEIGHTED)
def test_weighted_particles_stand_for_the_tilted_law(settings):
    """Evidence, mean and variance of the law tilted by exp(strength * mean pixel).

    The sampler's law is N(m, v), so `Z = exp(strength*m + strength^2*v/2)` and the tilted law is
    N(m + strength*v, v). Under SMC `Z_hat` and `Z_hat * sum_k w_k f(x_k)` are unbiased for any
    number of particles, so prompts are independent repeats and the intervals (99.9 %) are exact.

    Kills: the sign of a potential; a last potential without its correction; resampling that ignores
    the weights, or keeps them; scores so far that do not follow their particle; a weight before
    normalisation left out of the evidence.
    """
    strength = 2.5
    solver = cases.solvers()["ddpm"] if "window" in settings else toys.linear_solver()
    mean, variance = toys.affine(solver).final
    state = last_state(
        smc(particles=12, strength=strength, **settings), toys.linear_problem(solver), 1500
    )
    ratio = np.exp(
        np.asarray(state.log_evidence, np.float64) - strength * mean - strength**2 * variance / 2
    )
    weights = np.exp(np.asarray(state.log_weights, np.float64))
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    deviation = np.asarray(state.particles.x).mean(axis=(2, 3, 4)) - (mean + strength * variance)
    moments = {
        "evidence": (ratio - 1, 0.1),
        "mean": (ratio * (weights * deviation).sum(axis=1), 0.1 * strength * variance),
        "variance": (ratio * (weights * deviation**2).sum(axis=1) - variance, 0.3 * variance),
    }
    for name, (values, wide) in moments.items():
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean()) < 3.3 * error < wide, name


@pytest.mark.parametrize(
    ("potential", "tempering"), [("difference", "linear"), ("max", "none"), ("sum", "linear")]
)
def test_without_resampling_it_is_importance_sampling(potential, tempering):
    """All potentials multiply to exp(strength * final score), whatever came before.

    Kills: an exponent that does not end at the strength; a missing last correction.
    """
    problem, strength = toys.linear_problem(toys.linear_solver()), 7.0
    one = smc(
        particles=6, strength=strength, potential=potential, threshold=0.0, tempering=tempering
    )
    state = last_state(one, problem, 3)
    final = np.stack([toys.bright(x, {}) for x in state.particles.x])
    np.testing.assert_allclose(state.log_weights, log_softmax(strength * final, axis=1), atol=2e-5)
    np.testing.assert_allclose(
        state.log_evidence, logsumexp(strength * final, axis=1) - np.log(6), atol=2e-5
    )


def drive(searcher, rounds: list[list[float]]):
    """States after rounds of given scores; a particle's latent names the place it came from."""
    problem = toys.problem(cases.solvers()["ddpm"])
    space = noise_space(problem, 1)
    stages = stages_of(searcher, problem)
    state, states = searcher.init(space, jax.random.key(1)), []
    which = [(stage, index) for stage in stages for index in range(stage.rounds)]
    for number, ((stage, index), scores) in enumerate(zip(which, rounds, strict=False)):
        key = jax.random.key(number)
        proposal = stage.ask(key, jnp.int32(index), state)
        score = jnp.asarray(scores, jnp.float32)
        places = jnp.arange(float(len(scores)))[:, None, None, None]
        child = proposal.parent._replace(x=jnp.broadcast_to(places, proposal.parent.x.shape))
        state = stage.tell(
            key, jnp.int32(index), state, proposal, Evaluation(child, score, score[:, None])
        )
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("potential", "tempering", "expected"),
    [
        ("difference", "none", [3.0, -1.0]),
        ("difference", "linear", [1.0, -1 / 3]),
        ("max", "none", [2 * 1.0 + 2 * 1.5, 2 * 0.5 + 2 * 0.5]),
        ("max", "linear", [2 / 6 + 2 * 2 / 6 * 1.5, 2 / 6 * 0.5 + 2 * 2 / 6 * 0.5]),
        ("sum", "none", [2 * 1.0 + 2 * 2.5, 2 * 0.5 + 2 * 0.0]),
        ("sum", "linear", [2 / 6 + 2 * 2 / 6 * 2.5, 2 / 6 * 0.5 + 0.0]),
    ],
)
def test_potentials_on_the_way(potential, tempering, expected):
    """The weights after two of six steps, by hand, at strength 2. Kills: potentials mixed up."""
    one = smc(particles=2, strength=2.0, potential=potential, tempering=tempering, threshold=0.0)
    state = drive(one, [[1.0, 0.5], [1.5, -0.5]])[-1]
    np.testing.assert_allclose(state.log_weights, log_softmax(expected), atol=1e-5)
    np.testing.assert_allclose(state.log_evidence, logsumexp(expected) - np.log(2), rtol=1e-5)


def test_resampling_waits_for_the_threshold():
    """Kills: the trigger inverted; weights kept after resampling, or lost without."""
    scores = [[0.3, 0.0, 0.0, 0.0]]
    weights = np.exp(log_softmax(scores[0]))
    fraction = 1 / np.sum(weights**2) / 4
    for threshold, happens in ((0.0, 0), (fraction - 0.01, 0), (fraction + 0.01, 1), (1.0, 1)):
        state = drive(smc(particles=4, strength=1.0, threshold=threshold), scores)[0]
        kept = np.log(np.full(4, 0.25)) if happens else np.log(weights)
        np.testing.assert_allclose(state.log_weights, kept, atol=1e-5)


def test_the_last_weights_are_kept():
    """Six steps of which the last takes no noise: nothing is resampled before it, or at the end.

    Kills: copies that no noise will tell apart; final weights lost to a last resampling.
    """
    one = smc(particles=2, strength=1.0, threshold=1.0)
    scores = [[0.1, 0.2], [0.3, 0.1], [0.0, 0.2], [0.0, 0.1], [0.0, 0.5], [1.0, 0.0]]
    spread = [float(np.ptp(state.log_weights)) for state in drive(one, scores)]
    assert spread[:4] == [0.0] * 4
    assert min(spread[4:]) > 0.3


def test_what_a_particle_spent_goes_with_it():
    """One particle outweighs all: its latent, its potentials and its record fill every place.

    Kills: latents resampled without their scores, whose next potential would be a stranger's.
    """
    one = smc(particles=4, strength=50.0, potential="max", threshold=0.5)
    state = drive(one, [[0.0, 0.1, 3.0, 0.2]])[0]
    assert np.all(np.asarray(state.particles.x) == 2.0)
    np.testing.assert_allclose(state.record, 3.0)
    np.testing.assert_allclose(state.spent, 150.0)
    np.testing.assert_allclose(state.log_weights, -np.log(4), rtol=1e-6)
    np.testing.assert_allclose(state.log_evidence, 150.0 - np.log(4), rtol=1e-6)


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
def test_a_particle_without_a_score_is_out_and_a_round_without_any_is_skipped(potential):
    """Kills: NaN from -inf less -inf; a dead particle that comes back; weights begun anew."""
    nothing = -np.inf
    one = smc(particles=3, strength=1.0, potential=potential, threshold=0.0)
    rounds = [
        [0.1, 0.2, nothing],
        [nothing] * 3,
        [0.3, 0.1, 0.9],
        [0.1, nothing, 0.3],
        [nothing, 0.4, 0.5],
        [0.2, 0.3, 0.4],
    ]
    states = drive(one, rounds)
    assert all(not np.any(np.isnan(state.log_weights)) for state in states)
    np.testing.assert_array_equal(states[1].log_weights, states[0].log_weights)
    np.testing.assert_array_equal(np.exp(states[2].log_weights) > 0, [True, True, False])
    np.testing.assert_array_equal(np.exp(states[3].log_weights), [1, 0, 0])
    # In the fifth round only particles without a weight are scored.
    np.testing.assert_array_equal(np.exp(states[4].log_weights), [1, 0, 0])
    np.testing.assert_array_equal(np.exp(states[5].log_weights), [1, 0, 0])
    np.testing.assert_allclose(states[5].log_evidence, 0.2 - np.log(3), rtol=1e-5)
    final = drive(one, [*rounds[:5], [nothing] * 3])[-1]
    np.testing.assert_allclose(np.exp(final.log_weights), 1 / 3, rtol=1e-6)
    assert np.isneginf(final.log_evidence)


def test_no_strength_is_best_of_n_and_evidence_one():
    """Kills: a key path of its own; particles permuted where nothing was resampled."""
    problem, prompts = toys.linear_problem(toys.linear_solver()), toys.prompts(4)
    found = search(jax.random.key(0), smc(particles=4, strength=0.0), problem, prompts)
    other = search(jax.random.key(0), best_of_n(candidates=4), problem, prompts)
    np.testing.assert_allclose(found.particle.x, other.particle.x, atol=2e-6)


def test_strength_and_threshold_may_be_traced():
    problem, prompts = toys.linear_problem(toys.linear_solver()), toys.prompts(4)

    def score(strength, threshold):
        one = smc(particles=4, strength=strength, threshold=threshold, potential="max")
        return search(jax.random.key(0), one, problem, prompts).score

    fixed = score(40.0, 1.0)
    score = jax.jit(score)
    np.testing.assert_allclose(score(jnp.float32(40.0), jnp.float32(1.0)), fixed, atol=2e-6)
    assert not np.allclose(score(jnp.float32(0.0), jnp.float32(0.0)), fixed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 0}, "particles is 0"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"potential": "product"}, "unknown potential 'product': take 'difference' or"),
        ({"resampling": "none"}, "unknown resampling 'none'"),
        ({"tempering": "cosine"}, "unknown tempering 'cosine'"),
        ({"every": 0}, "every is 0"),
        ({"window": (2.0, 1.0)}, "window is"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        smc(**settings)
