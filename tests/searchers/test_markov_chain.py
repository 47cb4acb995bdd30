"""Markov chains: the tilted law in closed form, and the acceptance that makes it exact."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import realise, take
from jaxsearch.core.plan import plan
from jaxsearch.core.process import trained_steps, variance_preserving
from jaxsearch.core.replay import replay
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Decoder, Evaluation, Objective, Problem, Verifier
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import markov_chain
from jaxsearch.solvers import first_order
from tests import cases, toys

SHAPE = (2, 2, 1)
STD = 0.5
NUM_STEPS = 3


def _pixels(params, latents):
    return latents


def _near(params, images, context):
    return -((jnp.mean(images, axis=(1, 2, 3)) - params["target"]) ** 2)


@functools.cache
def solver(eta: float):
    process = variance_preserving(beta_start=1e-4, beta_end=0.02, shape="linear")
    schedule = trained_steps(process, num_steps=NUM_STEPS, spacing="trailing")
    return first_order(schedule, eta=eta)


def problem(eta: float, verifier: Verifier) -> Problem:
    """Gaussian data, decoded as they are: every pixel of a sample is linear in its noises."""
    one = solver(eta)
    return Problem(
        denoiser=toys.gaussian(0.0, STD, SHAPE, one.schedule.process),
        objective=Objective(decoder=Decoder(apply=_pixels), verifiers=(verifier,)),
        solver=one,
        value=solver_estimate(),
    )


def responses(eta: float) -> np.ndarray:
    """The coefficients [T + 1] of a sample's pixel in the noises it is made of, float64.

    Each step of Song et al. 2021, equation 12, with the exact Gaussian denoiser, is linear.
    """
    schedule = solver(eta).schedule
    coefs = [float(schedule.process.prior_scale(schedule.times[0]))]
    for i in range(NUM_STEPS):
        alpha, sigma = schedule.alpha[i : i + 2], schedule.sigma[i : i + 2]
        total = alpha[0] ** 2 * STD**2 + sigma[0] ** 2
        replaced = sigma[0] ** 2 - (alpha[0] / alpha[1] * sigma[1]) ** 2
        up = eta * sigma[1] / sigma[0] * np.sqrt(max(replaced, 0.0))
        keep = alpha[1] * alpha[0] * STD**2 + np.sqrt(sigma[1] ** 2 - up**2) * sigma[0]
        coefs = [coef * keep / total for coef in coefs] + [up]
    return np.asarray(coefs)


def walked(searcher, problem_, num_prompts: int):
    """The state of the chains [P, C] after the last round."""
    prompts = toys.prompts(num_prompts)
    (*_, last) = search_in_chunks(
        jax.random.key(5), searcher, problem_, prompts, rounds_per_chunk=1000
    )
    return last.searcher


@pytest.mark.parametrize(("eta", "injected"), [(0.0, False), (1.0, True)])
def test_chains_draw_from_the_tilted_law(eta, injected):
    """The law of the mean pixel `s = sum_i a_i mean(z_i)` under `exp(-strength*(s - target)^2)`.

    With `v` the prior's variance of `s` and `h = 2*strength*v` it is Gaussian with variance
    `v / (1 + h)` and mean `target*h / (1 + h)`; row `i` has its part `a_i / sum a^2` of that mean.
    Everything else stays a standard Gaussian. Kills: the sign of the acceptance; every move
    accepted; a score that is not that of the state; a dropped `sqrt(1 - step^2)`; injected rows
    left alone or moved by another step; one coin for all chains.
    """
    coefs, size = responses(eta), int(np.prod(SHAPE))
    prior = np.sum(coefs**2) / size
    strength, target = 1.0 / prior, 1.5 * np.sqrt(prior)
    tilt = 2 * strength * prior
    one = markov_chain(chains=32, iterations=30, step=0.7, strength=strength, injected=injected)
    verifier = Verifier(name="near", apply=_near, params={"target": jnp.float32(target)})
    num_prompts = 64
    state = walked(one, problem(eta, verifier), num_prompts)
    noise = np.asarray(jax.jit(lambda n: realise(n, SHAPE))(state.noise), np.float64)
    noise = noise.reshape(num_prompts * 32, NUM_STEPS + 1, size)
    found = np.tensordot(noise.mean(axis=2), coefs, axes=(1, 0))
    num = len(found)
    mean, variance = target * tilt / (1 + tilt), prior / (1 + tilt)
    assert abs(found.mean() - mean) < 4 * np.sqrt(variance / num)
    assert abs(found.var() / variance - 1) < 4 * np.sqrt(2 / num)
    for row in np.flatnonzero(coefs):
        expected = mean * coefs[row] / np.sum(coefs**2)
        assert abs(noise[:, row].mean() - expected) < 4 * np.sqrt(1 / (num * size))
        # What the reward does not see: differences of pixels.
        across = (noise[:, row] - noise[:, row].mean(axis=1, keepdims=True)).ravel()
        assert abs(across.var() * size / (size - 1) - 1) < 4 * np.sqrt(2 / (num * (size - 1)))
    # The chains have walked, and were refused at times.
    rate = np.asarray(state.accepted).mean() / 30
    assert 0.2 < rate < 0.9
    # Chains of a prompt know nothing of one another: their mean varies 32 times less than one.
    means = (found - mean).reshape(num_prompts, 32).mean(axis=1)
    assert abs(32 * np.mean(means**2) / variance - 1) < 4 * np.sqrt(2 / num_prompts)


@pytest.mark.parametrize("injected", [False, True])
def test_a_constant_reward_accepts_everything_and_keeps_the_prior(injected):
    """Kills: a dropped `sqrt(1 - step^2)`; moves that overwrite one another; a strict
    comparison; noise drawn for steps that take none.

    A recipe's variance is the sum of its squared coefficients.
    """
    one = markov_chain(chains=3, iterations=7, step=0.6, injected=injected)
    problem_ = problem(1.0, toys.bright)
    space, (_, stage) = noise_space(problem_, one.rank), stages_of(one, problem_)
    state = one.init(space, jax.random.key(1))._replace(score=jnp.zeros(3))
    ask, tell = jax.jit(stage.ask), jax.jit(stage.tell)
    for key, round in zip(jax.random.split(jax.random.key(2), 7), range(7), strict=True):
        proposal = ask(key, jnp.int32(round), state)
        child = proposal.parent._replace(
            noise=jax.tree.map(
                lambda root, steps: jnp.concatenate([root[:, :1], steps], axis=1),
                proposal.parent.noise,
                proposal.noise,
            )
        )
        evaluation = Evaluation(child, jnp.zeros(3), jnp.zeros((3, 1)))
        state = tell(jax.random.fold_in(key, 1), jnp.int32(round), state, proposal, evaluation)
    np.testing.assert_array_equal(state.accepted, 7)
    squares = np.asarray(state.noise.coefs) ** 2
    used = np.asarray([True, *solver(1.0).active])
    np.testing.assert_array_equal(squares[:, ~used], 0.0)
    np.testing.assert_allclose(squares.sum(axis=-1)[:, used], 1.0, rtol=1e-5)
    # The first term has been turned seven times, the last move not at all.
    moved = squares[:, used if injected else [True] + [False] * NUM_STEPS]
    ages = np.asarray([7, *range(6, -1, -1)])
    expected = (1 - 0.36) ** ages * np.asarray([1.0] + [0.36] * 7)
    np.testing.assert_allclose(moved, np.broadcast_to(expected, moved.shape), rtol=1e-5)
    if not injected:
        np.testing.assert_array_equal(squares[:, 1:, 1:], 0.0)


def told(searcher, before, scores):
    """The state after a round whose chains, at these scores, propose samples of those."""
    problem_ = toys.problem(cases.solvers()["ddim"])
    space, stage = noise_space(problem_, searcher.rank), stages_of(searcher, problem_)[-1]

    @jax.jit
    def run(before, scores):
        state = searcher.init(space, jax.random.key(1))._replace(score=before)
        proposal = stage.ask(jax.random.key(2), jnp.int32(0), state)
        evaluation = Evaluation(proposal.parent, scores, scores[:, None])
        after = stage.tell(jax.random.key(3), jnp.int32(0), state, proposal, evaluation)
        return state, proposal, after

    return run(jnp.float32(before), jnp.float32(scores))


def test_a_worse_sample_is_accepted_with_its_probability():
    """`exp(strength * gain)` of 4000 coins. Kills: the strength not read; the sign."""
    one = markov_chain(chains=4000, iterations=1, strength=5.0)
    for gain in (-0.2, -0.05, 0.1):
        _, _, after = told(one, np.full(4000, 0.3), np.full(4000, 0.3 + gain))
        rate, expected = np.mean(np.asarray(after.accepted)), min(1.0, np.exp(5.0 * gain))
        assert abs(rate - expected) <= 3.5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-6


@pytest.mark.parametrize("strength", [0.0, 1.0, 1e30])
def test_failed_scores_lose_to_all_others_and_make_no_nan(strength):
    """Kills: `inf - inf` or `0 * inf` compared; a chain that never leaves a failed start."""
    inf = np.inf
    one = markov_chain(chains=5, iterations=1, strength=strength)
    state, proposal, after = told(one, [0.5, 0.5, -inf, -inf, 1e38], [-inf, 0.6, -inf, 0.1, -1e38])
    accepted = np.asarray([False, True, True, True, strength == 0])
    np.testing.assert_array_equal(after.accepted, accepted)
    np.testing.assert_array_equal(
        after.score, np.where(accepted, np.float32([-inf, 0.6, -inf, 0.1, -1e38]), state.score)
    )
    coefs = take(proposal.parent.noise, (slice(None), 0)).coefs
    expected = np.where(accepted[:, None], coefs, state.noise.coefs[:, 0])
    np.testing.assert_array_equal(after.noise.coefs[:, 0], expected)


def test_a_state_is_the_recipe_of_its_score():
    """Kills: a state whose noise and score part ways; a refused proposal kept, or what it drew."""
    problem_, prompts = toys.problem(cases.solvers()["ddpm"]), toys.prompts(3)
    one = markov_chain(chains=2, iterations=6, step=0.6, strength=50.0, injected=True)
    (*_, last) = search_in_chunks(jax.random.key(5), one, problem_, prompts, rounds_per_chunk=1000)
    for chain in range(2):
        noise = take(last.searcher.noise, (slice(None), chain))
        images = problem_.objective.decoder(replay(problem_, noise, prompts).x)
        np.testing.assert_allclose(
            toys.bright(images, {}), last.searcher.score[:, chain], atol=1e-6
        )
    assert np.any(np.asarray(last.searcher.accepted) < 6)
    terms = np.sum(np.asarray(last.searcher.noise.coefs[:, :, 0]) != 0, axis=-1)
    np.testing.assert_array_equal(terms, np.asarray(last.searcher.accepted) + 1)


def test_settings_may_be_traced():
    """One program for many strengths and steps. Kills: a branch on a setting; `float` of one."""
    problem_, prompts = toys.problem(cases.solvers()["ddim"]), toys.prompts(2)

    def run(step, strength):
        one = markov_chain(chains=2, iterations=3, step=step, strength=strength)
        return search(jax.random.key(0), one, problem_, prompts).score

    steps, strengths = np.float32([0.2, 0.9]), np.float32([5.0, 80.0])
    together = jax.jit(jax.vmap(run))(steps, strengths)
    np.testing.assert_allclose(together[1], run(float(steps[1]), float(strengths[1])), atol=1e-6)
    assert not np.allclose(*together)


def test_memory_is_laid_out_for_every_move():
    """A recipe has room for one Gaussian (12 bytes) per move and row, and `plan` says so."""
    problem_ = toys.problem(cases.solvers()["ddim"])
    price = plan(markov_chain(iterations=50), problem_, toys.prompts(1))
    assert [(stage.rounds, stage.candidates) for stage in price.stages] == [(1, 4), (50, 4)]
    assert price.memory.state >= 4 * (cases.NUM_STEPS + 1) * 51 * 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chains": 0}, "chains is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"step": 0.0}, "step is 0.0"),
        ({"step": 1.5}, "step is 1.5"),
        ({"strength": -1.0}, "strength is -1.0"),
        ({"strength": float("inf")}, "strength is inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        markov_chain(**settings)
