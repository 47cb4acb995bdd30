"""Gradient ascent: optima known in closed form, its regularisers, and recipes with a free part."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsearch.core.noise import fresh_trajectory, realise, take
from jaxsearch.core.plan import Flops, plan
from jaxsearch.core.process import trained_steps
from jaxsearch.core.replay import plain_noise, replay
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Evaluation, Objective, Verifier
from jaxsearch.runs.components import settings_of
from jaxsearch.searchers import best_of_n, gradient
from jaxsearch.searchers.gradient import log_probability, norm_slope
from jaxsearch.solvers import first_order
from tests import cases, toys

NUM_PROMPTS = 3
PROMPTS = toys.prompts(NUM_PROMPTS)
KEY = jax.random.key(4)
TARGET = np.asarray([1.4, -0.6], np.float32).reshape(toys.LINEAR_SHAPE)


def _closeness(params, images, context):
    return -jnp.sum((images - params[None]) ** 2, axis=(1, 2, 3))


@functools.cache
def solver(eta: float):
    process = toys.processes()["variance_preserving"]
    return first_order(
        trained_steps(process, num_steps=4, spacing="trailing", final="first"), eta=eta
    )


def linear(eta: float):
    """A linear-Gaussian sampler, and minus the squared distance from a target as the score."""
    problem = toys.linear_problem(solver(eta))
    verifier = Verifier(name="closeness", apply=_closeness, params=jnp.asarray(TARGET))
    objective = Objective(decoder=problem.objective.decoder, verifiers=(verifier,))
    return dataclasses.replace(problem, objective=objective)


def reach(eta: float) -> tuple[np.ndarray, float]:
    """The sample is `sum_i reach[i] * noise[i] + shift`; row 0 is the initial noise's."""
    steps = toys.affine(solver(eta))
    reach, shift = [steps.prior], 0.0
    for a, b, c in zip(steps.a, steps.b, steps.c, strict=True):
        reach, shift = [a * r for r in reach] + [c], a * shift + b
    return np.asarray(reach), shift


def noises(problem, recipes) -> np.ndarray:
    return np.asarray(realise(recipes, problem.denoiser.shape), np.float64)


def climb(problem, searcher):
    """The plain noises [P, L, *E] and those at the end of a search, of candidate 0."""
    *_, state = search_in_chunks(KEY, searcher, problem, PROMPTS, rounds_per_chunk=1000)
    plain = noises(problem, plain_noise(KEY, problem, PROMPTS))
    free = np.asarray(state.searcher.free, np.float64)[:, 0]
    active = (True, *problem.solver.active)
    rows = [row for row, used in enumerate(active) if used] if free.shape[1] > 1 else [0]
    return plain[:, rows], plain[:, rows] + free, state


@pytest.mark.parametrize("injected", [False, True])
def test_the_optimum_of_a_quadratic(injected):
    """The target is reached, by the shortest way: along what each noise does to the sample.

    Kills: a descent; the initial noise's scale left out; a step along another noise's gradient;
    injected noises that are not searched.
    """
    problem = linear(0.6)
    weights, shift = reach(0.6)
    used = weights if injected else weights[:1]
    rate = 0.9 / (2 * np.sum(used**2))
    # Each step leaves a tenth of the distance.
    one = gradient(
        iterations=7, optimizer="sgd", learning_rate=rate, renormalise=False, injected=injected
    )
    plain, end, state = climb(problem, one)
    everything = noises(problem, plain_noise(KEY, problem, PROMPTS))
    away = TARGET - (np.einsum("r,prhwc->phwc", weights, everything) + shift)
    along = used / np.sum(used**2)
    np.testing.assert_allclose(end - plain, along[:, None, None, None] * away[:, None], atol=2e-5)
    np.testing.assert_allclose(state.score, 0.0, atol=1e-9)
    np.testing.assert_allclose(state.best.x, np.broadcast_to(TARGET, state.best.x.shape), atol=2e-5)
    assert np.abs(away).min() > 0.01


def test_the_regularised_optimum():
    """Where `-|A*n + s - y|^2 + w*K(n)` is stationary, in closed form.

    Its gradient vanishes at `n = l*u`, `u` along `y - s`, where `(2A^2 + w) l^2 - 2A|y - s| l
    - w(d - 1) = 0`. Kills: the regulariser's sign; `d` for `d - 1`; its weight left out.
    """
    problem, weight = linear(0.0), 0.8
    weights, shift = reach(0.0)
    slope, towards = weights[0], (TARGET - shift).ravel().astype(np.float64)
    length, num = np.linalg.norm(towards), towards.size
    a, b, c = 2 * slope**2 + weight, -2 * slope * length, -weight * (num - 1)
    expected = (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a) * towards / length
    rate = 0.5 / (2 * slope**2 + 2 * weight)
    one = gradient(
        iterations=150,
        optimizer="sgd",
        learning_rate=rate,
        renormalise=False,
        regularisation=weight,
    )
    _, end, _ = climb(problem, one)
    np.testing.assert_allclose(end.reshape(NUM_PROMPTS, -1), [expected] * 3, atol=1e-4)
    # The regulariser has a say: without it the end is another.
    assert abs(np.linalg.norm(expected) - length / slope) > 0.05


def test_the_slope_of_the_norm_is_its_derivative():
    """Kills: a sign; a noise of zeros that makes NaN."""
    noise = 1.7 * jax.random.normal(jax.random.key(1), (5, 3, 2))

    def density(n):
        norm = jnp.linalg.norm(n.ravel())
        return (n.size - 1) * jnp.log(norm) - norm**2 / 2

    np.testing.assert_allclose(norm_slope(noise), jax.grad(density)(noise), rtol=1e-5)
    np.testing.assert_array_equal(norm_slope(jnp.zeros((2, 2))), np.zeros((2, 2)))


def written_out(noise, key) -> float:
    """The bound on the moments of a noise, in NumPy float64 with its own spectral norm."""
    orders = [np.arange(noise.size)]
    for one in jax.random.split(key, 8):
        orders.append(np.asarray(jax.random.permutation(one, noise.size)))
    total = 0.0
    for order in orders:
        blocks = noise.ravel()[order].astype(np.float64)[: noise.size // 4 * 4].reshape(-1, 4)
        m, k = blocks.shape
        of_mean = 2 * np.exp(-m * np.linalg.norm(blocks.mean(axis=0)) ** 2 / (2 * k))
        far = np.linalg.norm(blocks.T @ blocks / m - np.eye(k), 2)
        beyond = max(np.sqrt(1 + far) - 1 - np.sqrt(k / m), 0)
        total += np.log(min(of_mean, 1)) + np.log(min(2 * np.exp(-m * beyond**2 / 2), 1))
    return total / len(orders)


def test_the_moments_of_a_gaussian_are_likely_and_others_are_not():
    """Kills: a missing 2 or k; the number of blocks for their size; a bound that is not capped at
    1; permutations that are left out, or the noise's own order; a covariance without `- I`.
    """
    key, shape = jax.random.key(2), (17, 15, 3)  # 765 numbers: the last is in no block
    gaussians = np.asarray(jax.random.normal(jax.random.key(1), (20, *shape)))
    probability = jax.jit(log_probability)
    found = [float(probability(one, key)) for one in gaussians]
    assert np.mean(found) > -0.1
    waves = np.tile([1.0, -1.0, 1.0, -1.0], 192)[:765].reshape(shape)  # right in any other order
    strange = (np.ones(shape), waves, 1.5 * gaussians[0], 0.3 * gaussians[0])
    for noise, is_strange in ((gaussians[0], False), *((one, True) for one in strange)):
        found = float(probability(jnp.asarray(noise, jnp.float32), key))
        np.testing.assert_allclose(found, written_out(noise, key), rtol=1e-4, atol=1e-5)
        assert (found < -4) == is_strange


def test_the_slope_of_the_moments_is_their_derivative():
    """By differences, where all bounds count. Kills: an eigenvector that is differentiated through,
    or of another eigenvalue; NaN where eigenvalues are equal.
    """
    key, noise = jax.random.key(2), 1.8 * jax.random.normal(jax.random.key(1), (6, 8))
    slope = jax.jit(jax.grad(log_probability))
    for direction in jax.random.normal(jax.random.key(3), (3, 6, 8)):
        ahead, behind = (
            written_out(np.asarray(noise, np.float64) + h * np.asarray(direction), key)
            for h in (1e-4, -1e-4)
        )
        np.testing.assert_allclose(
            jnp.vdot(slope(noise, key), direction), (ahead - behind) / 2e-4, rtol=1e-3
        )
    for flat in (jnp.zeros((6, 8)), jnp.ones((6, 8)), jnp.ones((1,))):
        assert np.all(np.isfinite(np.asarray(slope(flat, key))))


def test_an_ascent_with_the_moments_stays_gaussian():
    """Mean and variance of all noises of a sampler that climbs brightness, as far as it likes.

    Kills: a penalty that is climbed, or left out.
    """
    problem = toys.problem(cases.solvers()["flow_sde"])
    far, scores = {}, {}
    for weight in (0.0, 0.1):
        one = gradient(
            iterations=30,
            learning_rate=0.1,
            renormalise=False,
            regularisation=weight,
            regulariser="moments",
            injected=True,
        )
        _, end, state = climb(problem, one)
        end = end.reshape(NUM_PROMPTS, -1)
        far[weight] = np.abs(end.mean(axis=1)) + np.abs(end.var(axis=1) - 1)
        scores[weight] = np.asarray(state.score)
    assert np.all(far[0.1] < far[0.0] / 5)
    plain_score = search(KEY, best_of_n(candidates=1), problem, PROMPTS).score
    assert np.all(plain_score < scores[0.1])
    assert np.all(scores[0.1] < scores[0.0])


@pytest.mark.parametrize(
    ("name", "solver_name"),
    [("gradient", "heun_edm"), ("gradient_injected", "heun_edm"), ("gradient_injected", "ddpm")],
)
def test_the_recipe_makes_the_sample(name, solver_name):
    """Kills: the free part dropped in replay or in the lineage; noises of plain recipes."""
    problem = toys.problem(cases.solvers()[solver_name])
    found = search(KEY, cases.SEARCHERS[name].searcher, problem, PROMPTS)
    again = replay(problem, found.particle.noise, PROMPTS)
    np.testing.assert_array_equal(again.x, found.particle.x)
    np.testing.assert_array_equal(again.noise.free, found.particle.noise.free)
    moved = np.any(np.asarray(found.particle.noise.free) != 0, axis=(2, 3, 4))
    active = np.asarray([True, *problem.solver.active])
    searched = active if name == "gradient_injected" else np.arange(len(active)) == 0
    np.testing.assert_array_equal(moved, np.broadcast_to(searched, moved.shape))


def test_it_starts_from_the_candidates_of_best_of_n():
    """And cannot end below the best of them.

    Kills: a start of its own; noises rescaled before they are first scored.
    """
    problem = toys.problem(cases.solvers()["ddpm"])
    begin = search(KEY, gradient(candidates=3, iterations=0), problem, PROMPTS)
    best = search(KEY, best_of_n(candidates=3), problem, PROMPTS)
    np.testing.assert_allclose(begin.score, best.score, atol=1e-6)
    found = search(KEY, gradient(candidates=3, iterations=1), problem, PROMPTS)
    np.testing.assert_allclose(found.trace.best[0], best.score, atol=1e-6)
    assert np.all(np.asarray(found.score) >= np.asarray(begin.score))
    assert np.any(np.asarray(found.score) > np.asarray(begin.score))


SLOPES = jax.random.normal(jax.random.key(8), (3, 5, *toys.LINEAR_SHAPE))
"""Of three candidates and the five noises of a linear sampler."""


def told(searcher, slopes: jax.Array, rounds: int = 3):
    """The state [K, ...] of one prompt after rounds that found these slopes [K, L, *E]."""
    space = noise_space(linear(0.6), searcher.rank)
    stage = searcher.stages(space)[0]
    state = searcher.init(space, KEY)
    found = Evaluation(None, None, None, slopes)  # it looks at nothing else
    tell = jax.jit(lambda state: stage.tell(KEY, jnp.int32(0), state, None, found))
    for _ in range(rounds):
        state = tell(state)
    return state


@pytest.mark.parametrize("injected", [False, True])
def test_noises_stay_on_the_sphere(injected):
    """`sqrt(d)` for each noise. Kills: one norm for all of them; a norm that is not kept."""
    num = 5 if injected else 1
    one = gradient(candidates=3, learning_rate=0.3, injected=injected)
    space, state = noise_space(linear(0.6), 1), told(one, SLOPES[:, :num])
    plain = jax.vmap(lambda key: take(fresh_trajectory(space, key), slice(num)))(state.keys)
    end = realise(plain, space.shape) + state.free
    lengths = np.linalg.norm(np.reshape(end, (3, num, -1)), axis=-1)
    np.testing.assert_allclose(lengths, np.sqrt(np.prod(space.shape)), rtol=1e-5)
    assert np.abs(state.free).max(axis=(2, 3, 4)).min() > 0.01


def test_candidates_go_their_own_ways():
    """Kills: one optimiser for all; a gradient clipped over all candidates."""
    settings = {"clip": 0.1, "optimizer": "momentum", "learning_rate": 1.0, "injected": True}
    alone = told(gradient(**settings), SLOPES[:1]).free
    several = told(gradient(candidates=3, **settings), SLOPES).free
    np.testing.assert_allclose(several[:1], alone, atol=1e-6)
    assert np.abs(np.asarray(several[1] - several[0])).max() > 0.01


def test_a_clipped_step_is_as_long_as_it_may_be():
    """Over all noises of a candidate together. Kills: the clip left out; each noise by itself."""
    settings = {"optimizer": "sgd", "learning_rate": 0.5, "renormalise": False, "injected": True}
    state = told(gradient(candidates=3, clip=0.1, **settings), SLOPES, rounds=1)
    lengths = np.linalg.norm(np.reshape(state.free, (3, -1)), axis=1)
    np.testing.assert_allclose(lengths, 0.05, rtol=1e-4)


def test_any_optimizer_of_optax():
    """Kills: the object passed not used; a name that stands for another one."""
    by_name = {
        "adam": optax.adam(0.2),
        "sgd": optax.sgd(0.2),
        "momentum": optax.sgd(0.2, momentum=0.9, nesterov=True),
    }
    ends = []
    for name, made in by_name.items():
        by_its_name = gradient(optimizer=name, learning_rate=0.2)
        passed = gradient(optimizer=made)
        ends.append(told(by_its_name, SLOPES[:1, :1]).free)
        np.testing.assert_array_equal(ends[-1], told(passed, SLOPES[:1, :1]).free)
    assert np.abs(ends[0] - ends[1]).max() > 0.01
    assert np.abs(ends[1] - ends[2]).max() > 0.01
    assert settings_of(gradient)["optimizer"].type.__args__ == tuple(by_name)


def test_a_step_out_of_the_numbers_is_not_taken():
    """By the one candidate that would. Kills: an infinite noise; momentum that remembers it."""
    one = gradient(candidates=3, optimizer="momentum", learning_rate=1e30, renormalise=False)
    slopes = SLOPES[:, :1] * jnp.asarray([1e-30, 1e30, 0.0]).reshape((3, 1, 1, 1, 1))
    state = told(one, slopes)
    for leaf in jax.tree.leaves((state.free, state.optimizer)):
        moved = np.any(np.asarray(leaf) != 0, axis=tuple(range(1, leaf.ndim)))
        np.testing.assert_array_equal(moved, [True, False, False])
        assert np.all(np.isfinite(np.asarray(leaf)))


def test_what_it_costs():
    """K*(I + 1) samples ahead and K*I back. Kills: the last round differentiated for nothing."""
    problem = toys.problem(cases.solvers()["heun_edm"])
    price = plan(gradient(candidates=2, iterations=5), problem, PROMPTS)
    calls = 2 * cases.NUM_STEPS - 1
    assert price.cost.network_passes == 2 * 6 * calls
    assert price.cost.backward_passes == 2 * 5 * calls
    assert price.cost.decodes == 12
    each = Flops(network_pass=7.0, decode=5.0, verifier_call=3.0)
    passes = (2 * 6 + 3 * 2 * 5) * calls
    assert each.of(price.cost) == 7.0 * passes + 5.0 * 12 + 3.0 * 12
    assert plan(best_of_n(), problem, PROMPTS).cost.backward_passes == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"iterations": -1}, "iterations is -1"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion': take 'adam', 'sgd' or 'momentum'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"optimizer": optax.sgd(1.0), "learning_rate": 1.0}, "optimizer passed has its own"),
        ({"regularisation": -0.1, "renormalise": False}, "regularisation is -0.1"),
        ({"regularisation": 0.1}, "renormalise holds the norm that it is about"),
        ({"regulariser": "mean"}, "unknown regulariser 'mean': take 'norm' or 'moments'"),
        ({"clip": 0.0}, "clip is 0.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        gradient(**settings)
