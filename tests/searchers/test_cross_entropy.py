"""Cross-entropy in a subspace: the fit in closed form, a known optimum, and what is searched."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jaxsearch.core.noise import draw, prompt_keys, realise, take
from jaxsearch.core.random import fold_in
from jaxsearch.core.replay import plain_noise
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Decoder, Evaluation, Noise, Objective, Problem, Verifier
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import cross_entropy
from jaxsearch.searchers.cross_entropy import cosines
from tests import cases, toys

SHAPE = (4, 4, 1)


def setup(searcher):
    problem = toys.problem(cases.solvers()["ddim"])
    space = noise_space(problem, searcher.rank)
    return searcher.init(space, jax.random.key(1)), stages_of(searcher, problem)[0], space


def told(searcher, state, round, scores):
    """The coefficients [K, M] that a round proposes and the state at these scores."""
    _, stage, _ = setup(searcher)

    @jax.jit
    def run(round, state, scores):
        proposal = stage.ask(jax.random.key(2), round, state)
        evaluation = Evaluation(proposal.parent, scores, scores[:, None])
        after = stage.tell(jax.random.key(3), round, state, proposal, evaluation)
        return proposal.parent.noise.coefs[:, 0], after

    coefs, after = run(jnp.int32(round), state, jnp.asarray(scores, jnp.float32))
    return np.asarray(coefs), after


def test_the_first_generation_is_uniform_on_the_sphere_but_for_the_plain_sample():
    """Kills: coefficients not brought to the sphere; candidate 0 left to chance or in every round;
    a first deviation that is not the law's.

    Of a uniform unit vector of M numbers the second moments are `1/M` and the fourth
    `3 / (M (M + 2))`.
    """
    num, size = 4000, 5
    one = cross_entropy(directions=size, population=num, elites=1)
    state, _, space = setup(one)
    coefs, _ = told(one, state, 0, np.arange(num))
    np.testing.assert_array_equal(coefs[0], np.eye(size)[0])
    np.testing.assert_allclose(np.sum(coefs**2, axis=1), 1.0, rtol=1e-5)
    slack = 4 / np.sqrt(num) * np.sqrt(3 / (size * (size + 2)))
    np.testing.assert_allclose(coefs.T @ coefs / num, np.eye(size) / size, atol=slack)
    # The deviation that smoothing starts from is that of this law.
    np.testing.assert_allclose(np.mean(state.std**2), np.mean(coefs**2), rtol=1e-5)
    assert abs(np.mean(coefs**4) * size * (size + 2) / 3 - 1) < 0.1
    later, _ = told(one, state, 1, np.arange(num))
    assert np.all(np.abs(later[0]) < 1)
    # Their noises are standard Gaussians, whichever keys they are made of.
    noise = Noise(jax.random.split(jax.random.key(9), (50, size)), jnp.asarray(coefs[:50]))
    drawn = np.asarray(realise(noise, space.shape))
    assert abs(np.mean(drawn**2) - 1) < 4 * np.sqrt(2 / drawn.size)


@pytest.mark.parametrize("smoothing", [1.0, 0.3])
def test_the_law_moves_to_that_of_the_elites(smoothing):
    """Kills: the worst as elites; a variance for a standard deviation; smoothing left out."""
    one = cross_entropy(directions=3, population=6, elites=2, smoothing=smoothing)
    state, _, _ = setup(one)
    state = state._replace(mean=jnp.float32([0.2, 0.0, -0.4]), std=jnp.float32([0.1, 0.5, 0.9]))
    coefs, after = told(one, state, 1, [0.1, 0.9, -np.inf, 0.3, 0.8, 0.2])
    best = coefs[[1, 4]]
    for found, old, new in (
        (after.mean, state.mean, best.mean(axis=0)),
        (after.std, state.std, best.std(axis=0)),
    ):
        np.testing.assert_allclose(found, smoothing * new + (1 - smoothing) * old, atol=1e-6)


def test_failed_scores_are_no_elites():
    """Kills: a mean over failed candidates; a NaN where all fail."""
    one = cross_entropy(directions=3, population=4, elites=3, smoothing=1.0)
    state, _, _ = setup(one)
    coefs, after = told(one, state, 1, [-np.inf, 0.5, -np.inf, 0.1])
    np.testing.assert_allclose(after.mean, coefs[[1, 3]].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(after.std, coefs[[1, 3]].std(axis=0), atol=1e-6)
    _, after = told(one, state, 1, [-np.inf] * 4)
    np.testing.assert_array_equal(after.mean, state.mean)
    np.testing.assert_array_equal(after.std, state.std)


def test_the_subspace_holds_the_plain_sample_and_later_noise_is_fixed():
    """Kills: a key path of its own; injected noise of another candidate."""
    problem, prompts = toys.problem(cases.solvers()["ddpm"]), toys.prompts(3)
    one = cross_entropy(directions=3, population=4, elites=2, generations=2)
    noise = search(jax.random.key(4), one, problem, prompts).particle.noise
    plain = plain_noise(jax.random.key(4), problem, prompts)
    keys, plain_keys = (np.asarray(jax.random.key_data(n.keys)) for n in (noise, plain))
    np.testing.assert_array_equal(keys[:, :, 0], plain_keys[:, :, 0])
    np.testing.assert_array_equal(noise.coefs[:, 1:, 0], plain.coefs[:, 1:, 0])
    np.testing.assert_array_equal(noise.coefs[:, 1:, 1:], 0.0)


@pytest.mark.parametrize("shape", [(4, 6, 2), (5, 1), (1, 1, 1)])
def test_patterns_are_those_of_the_cosine_transform(shape):
    """Against SciPy's. Kills: a pattern that is not normalised; channels mixed; a wrong order."""
    num = int(np.prod(shape))
    patterns = cosines(shape, num + 1)
    np.testing.assert_allclose(patterns[:num] @ patterns[:num].T, np.eye(num), atol=1e-6)
    assert not np.any(patterns[num])
    axes = tuple(range(len(shape) - 1))
    sums = []
    for pattern in patterns[:num].reshape((num, *shape)):
        (place,) = np.argwhere(np.abs(scipy.fft.dctn(pattern, axes=axes, norm="ortho")) > 1e-5)
        sums.append(sum((k / n) ** 2 for k, n in zip(place[:-1], shape[:-1], strict=True)))
    np.testing.assert_array_equal(sums, sorted(sums))


def test_only_low_frequencies_are_searched():
    """Kills: high frequencies touched; low ones too large or too small for a Gaussian; a plain
    candidate that is moved; points of the subspace not found again in their recipes.
    """
    size = 5
    one = cross_entropy(directions=size, population=6, elites=3, subspace="low_frequency")
    state, stage, space = setup(one)
    proposal = stage.ask(jax.random.key(2), jnp.int32(0), state)
    noise = take(proposal.parent.noise, (slice(None), 0))
    drawn = np.asarray(realise(noise, space.shape)).reshape(6, -1)
    plain = np.asarray(draw(state.keys[0], space.shape)).ravel()
    np.testing.assert_allclose(drawn[0], plain, atol=1e-6)
    patterns = cosines(space.shape, plain.size)
    found, own = drawn @ patterns.T, plain @ patterns.T
    np.testing.assert_allclose(found[:, size:], np.tile(own[size:], (6, 1)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[1:, :size], axis=1), np.sqrt(size), rtol=1e-5)
    assert np.all(np.abs(found[1:, :size] - own[:size]).max(axis=1) > 0.1)
    scores = jnp.float32([0.0, 5.0, 1.0, 9.0, 2.0, 8.0])
    evaluation = Evaluation(proposal.parent, scores, scores[:, None])
    after = stage.tell(jax.random.key(3), jnp.int32(0), state, proposal, evaluation)
    elites = found[[1, 3, 5], :size] / np.sqrt(size)
    np.testing.assert_allclose(after.mean, 0.7 * elites.mean(axis=0), atol=1e-5)


def _pixels(params, latents):
    return latents


def _near(params, images, context):
    return -jnp.mean((images - context["image"]) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("subspace", ["random", "low_frequency"])
def test_it_finds_a_known_optimum(subspace):
    """Gaussian data, so a sample is its noise times a number; the image asked for is the sample of
    known coefficients, and the reward `-|image - sample|^2` has its optimum, 0, there alone.

    Kills: elites that are the worst; a mean that does not move; a deviation that does not shrink.
    """
    solver, size = cases.solvers()["ddim"], 6
    problem = Problem(
        denoiser=toys.gaussian(0.0, 1.0, SHAPE, solver.schedule.process),
        objective=Objective(
            decoder=Decoder(apply=_pixels),
            verifiers=(Verifier(name="near", apply=_near, needs=("image",)),),
        ),
        solver=solver,
        value=solver_estimate(),
    )
    one = cross_entropy(
        directions=size, population=32, elites=8, generations=20, smoothing=0.5, subspace=subspace
    )
    key, prompts = jax.random.key(0), toys.prompts(8)
    init = jax.vmap(lambda k: one.init(noise_space(problem, one.rank), k))(
        fold_in(prompt_keys(key, prompts), 0)
    )
    optimum = np.random.default_rng(0).normal(size=(8, size)).astype(np.float32)
    optimum /= np.linalg.norm(optimum, axis=1, keepdims=True)
    # Data of variance 1 on a variance-preserving process: every step of DDIM keeps the noise but
    # for a factor, the cosine of the angle between two points of the schedule.
    schedule = solver.schedule
    alpha, sigma = schedule.alpha, schedule.sigma
    factor = float(np.prod(alpha[1:] * alpha[:-1] + sigma[1:] * sigma[:-1]))
    if subspace == "random":
        noise = realise(Noise(init.keys, jnp.asarray(optimum)), SHAPE)
    else:
        plain = jax.vmap(lambda k: draw(k, SHAPE))(init.keys[:, 0])
        shift = np.sqrt(size) * (optimum - init.plain) @ cosines(SHAPE, size)
        noise = plain + shift.reshape(plain.shape)
    image = factor * noise
    prompts = prompts._replace(context={"image": image})
    (*_, last) = search_in_chunks(key, one, problem, prompts, rounds_per_chunk=99)
    mean = np.asarray(last.searcher.mean)
    cosine = np.sum(mean * optimum, axis=1) / np.linalg.norm(mean, axis=1)
    assert np.all(cosine > 0.99)
    assert np.all(np.asarray(last.score) > -0.02 * factor**2)
    assert np.all(np.asarray(last.searcher.std) < 0.2)


def test_smoothing_may_be_traced():
    """Kills: a branch on the setting; `float` of it."""
    problem, prompts = toys.problem(cases.solvers()["ddim"]), toys.prompts(2)

    def run(smoothing):
        one = cross_entropy(population=4, elites=2, generations=3, smoothing=smoothing)
        return search(jax.random.key(0), one, problem, prompts).score

    rates = np.float32([0.1, 1.0])
    together = jax.jit(jax.vmap(run))(rates)
    assert not np.allclose(*together)


def test_more_patterns_than_numbers_are_refused():
    """Kills: patterns of zeros, among which the law would search."""
    one = cross_entropy(directions=17, subspace="low_frequency")
    with pytest.raises(ValueError, match=r"directions is 17, but a latent of \(4, 4, 1\) has only"):
        setup(one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": 1}, "directions is 1"),
        ({"population": 0}, "population is 0"),
        ({"generations": 0}, "generations is 0"),
        ({"elites": 17}, r"elites is 17: it must lie in \[1, 8\]"),
        ({"smoothing": 0.0}, "smoothing is 0.0"),
        ({"subspace": "low"}, "unknown subspace 'low'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(**settings)
