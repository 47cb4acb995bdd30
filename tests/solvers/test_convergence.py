"""Orders of convergence, and the law of stochastic samples, by theory on exact denoisers."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import at, karras, shifted, trained_steps
from jaxsearch.core.types import Schedule, Solver
from jaxsearch.solvers.first_order import first_order
from jaxsearch.solvers.heun import heun
from tests import toys

PROCESSES = ("edm", "variance_preserving", "flow")
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0
# Asymmetric and of different widths: a symmetric target cannot show a wrong sign.
MEAN = np.array([0.7, -1.1, 0.2])
STD = np.array([0.5, 1.3, 0.15])
SEPARATION = 0.9


# ------------------------------------------------------------------------------------------- orders


def integrate(solver: Solver, denoise, x: np.ndarray) -> np.ndarray:
    """The latent at the last point but one: all steps except the one to the clean sample."""

    def body(x, index):
        return solver.step(denoise, x, jnp.full(len(x), index), jnp.zeros_like(x), ()).x, None

    steps = jnp.arange(solver.num_steps - 1)
    scan = jax.jit(lambda x: jax.lax.scan(body, x, steps)[0])
    return np.asarray(scan(np.asarray(x, np.float32)), np.float64)


def mixture_ode(y: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The probability-flow ODE of the one-dimensional mixture by RK4, float64.

    `y = x/alpha` and `dy/dlevel = (y - E[x0 | y]) / level`.
    """

    def slope(y, level):
        total = 0.3**2 + level**2
        mode = SEPARATION * np.tanh(SEPARATION * y / total)
        return level * (y - mode) / total

    for now, after in itertools.pairwise(levels):
        h = after - now
        first = slope(y, now)
        second = slope(y + h / 2 * first, now + h / 2)
        third = slope(y + h / 2 * second, now + h / 2)
        y = y + h / 6 * (first + 2 * second + 2 * third + slope(y + h * third, after))
    return y


def order(make_solver, process, denoise, start, exact, step_counts) -> float:
    """The slope of log error over log step count, with the sign of an order."""
    errors = []
    for num in step_counts:
        schedule = karras(process, num_steps=num + 1, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
        end = integrate(make_solver(schedule), denoise, schedule.alpha[0] * start)
        errors.append(np.max(np.abs(end / schedule.alpha[-2] - exact)))
    assert errors[-1] > 1e-5, f"rounding, not the method, makes these errors: {errors}"
    return -np.polyfit(np.log(step_counts), np.log(errors), 1)[0]


METHODS = {
    "first_order": (functools.partial(first_order, eta=0.0), (64, 128, 256), 1.0, 0.1),
    "heun": (functools.partial(heun, churn=0.0), (16, 32, 64), 2.0, 0.2),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROCESSES)
def test_order_on_a_gaussian(name, method):
    """The deterministic samplers converge to the exact solution, at their orders.

    On a Gaussian `(y - mean) / sqrt(std^2 + level^2)` is constant along the ODE.

    Kills: Euler for Heun's second slope; a slope taken at the wrong level, time or scale (then the
    limit is another one and the order 0).
    """
    make_solver, step_counts, expected, tolerance = METHODS[method]
    process = toys.processes()[name]
    denoiser = toys.gaussian(MEAN, STD, MEAN.shape, process)
    start = SIGMA_MAX * np.random.default_rng(0).standard_normal((16, 3))
    shrink = np.sqrt((STD**2 + SIGMA_MIN**2) / (STD**2 + SIGMA_MAX**2))
    exact = MEAN + shrink * (start - MEAN)
    found = order(
        make_solver, process, lambda x, t: denoiser(x, t, None), start, exact, step_counts
    )
    assert abs(found - expected) < tolerance


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROCESSES)
def test_order_on_a_mixture(name, method):
    """The same where the ODE is not linear and has no formula: against RK4 with 4000 steps.

    Kills: as above, and what happens to be exact on linear slopes.
    """
    make_solver, step_counts, expected, tolerance = METHODS[method]
    process = toys.processes()[name]
    denoiser = toys.mixture_denoiser(process, (1,))
    start = np.linspace(-30.0, 30.0, 16)[:, None]
    cond = jnp.full(16, SEPARATION)
    fine = np.geomspace(SIGMA_MAX, SIGMA_MIN, 4001)
    exact = mixture_ode(start, fine)
    found = order(
        make_solver, process, lambda x, t: denoiser(x, t, cond), start, exact, step_counts
    )
    assert abs(found - expected) < tolerance


# --------------------------------------------------------------------------------------------- laws


def gaussian_x0(x, alpha: float, sigma: float):
    """`E[x0 | x]` of the Gaussian, float64."""
    return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


def posterior_step(schedule: Schedule, i: int, eta: float, x, noise):
    """One step of DDIM(eta) from Bayes' rule, float64.

    The forward process goes from the next point to this one by `x = ratio*x' + added*noise`, so
    `q(x' | x, x0)` is a product of two Gaussians; `eta` scales its standard deviation and the
    rest of the noise follows the predicted one.
    """
    (alpha, next_alpha), (sigma, next_sigma) = schedule.alpha[i : i + 2], schedule.sigma[i : i + 2]
    x0 = gaussian_x0(x, alpha, sigma)
    if next_sigma == 0:
        return next_alpha * x0
    ratio = alpha / next_alpha
    added = sigma**2 - ratio**2 * next_sigma**2
    variance = 1 / (1 / next_sigma**2 + ratio**2 / added)
    if eta == 1:
        mean = variance * (next_alpha * x0 / next_sigma**2 + ratio * x / added)
    else:
        eps = (x - alpha * x0) / sigma
        mean = next_alpha * x0 + np.sqrt(next_sigma**2 - eta**2 * variance) * eps
    return mean + eta * np.sqrt(variance) * noise


def churned_step(schedule: Schedule, i: int, settings: dict, x, noise):
    """One step of Karras et al. 2022's Algorithm 2 on `y = x/alpha`, float64."""
    levels = schedule.sigma / schedule.alpha
    now, after, num_steps = levels[i], levels[i + 1], len(levels) - 1
    inside = settings["churn_min"] <= now <= settings["churn_max"]
    gamma = min(settings["churn"] / num_steps, 2**0.5 - 1) if inside else 0.0
    raised = now * (1 + gamma)
    amount = settings["noise_inflation"] * np.sqrt(raised**2 - now**2)
    y = x / schedule.alpha[i] + amount * noise
    slope = (y - gaussian_x0(y, 1.0, raised)) / raised
    moved = y + (after - raised) * slope
    if after > 0:
        second = (moved - gaussian_x0(moved, 1.0, after)) / after
        moved = y + (after - raised) * (slope + second) / 2
    return schedule.alpha[i + 1] * moved


def discretised_law(step, num_steps: int, scale: float) -> tuple[np.ndarray, ...]:
    """The law of the samples of a chain `x -> step(i, x, noise)` that is affine.

    Each step is probed at 0 and at the unit vectors of `x` and `noise`.

    Returns:
        Their mean, their variance and their covariance with the first latent, which tells how much
        of it the injected noise has replaced.
    """
    zero, one = np.zeros_like(MEAN), np.ones_like(MEAN)
    mean, variance, link = zero, scale**2 * one, scale**2 * one
    for i in range(num_steps):
        shift = step(i, zero, zero)
        slope = step(i, one, zero) - shift
        fresh = step(i, zero, one) - shift
        mean, variance = shift + slope * mean, slope**2 * variance + fresh**2
        link = slope * link
    return mean, variance, link


def assert_law(solver: Solver, step, *, rows: int = 40_000) -> None:
    """Samples of the solver have the moments of the chain, to 5 standard errors."""
    process, schedule = solver.schedule.process, solver.schedule
    denoiser = toys.gaussian(MEAN, STD, MEAN.shape, process)
    scale = process.prior_scale(schedule.times[0])

    @jax.jit
    def draw(key):
        first, *keys = jax.random.split(key, solver.num_steps + 1)
        start = scale * jax.random.normal(first, (rows, *MEAN.shape))

        def body(x, step):
            index, key = step
            noise = jax.random.normal(key, x.shape)
            moved = solver.step(
                lambda x, t: denoiser(x, t, None), x, jnp.full(rows, index), noise, ()
            )
            return moved.x, None

        return start, jax.lax.scan(body, start, (jnp.arange(solver.num_steps), jnp.stack(keys)))[0]

    start, samples = (np.asarray(v, np.float64) for v in draw(jax.random.key(7)))
    mean, variance, link = discretised_law(step, solver.num_steps, scale)
    mean_error = np.abs(samples.mean(axis=0) - mean) / np.sqrt(variance / rows)
    variance_error = np.abs(samples.var(axis=0) / variance - 1) / np.sqrt(2 / rows)
    found_link = np.mean(start * (samples - mean), axis=0)
    link_error = np.abs(found_link - link) / np.sqrt((scale**2 * variance + link**2) / rows)
    assert np.all(link_error < 5), (link_error, found_link, link)
    assert np.all(mean_error < 5), (mean_error, samples.mean(axis=0), mean)
    assert np.all(variance_error < 5), (variance_error, samples.var(axis=0), variance)


def schedules(name: str) -> Schedule:
    """A schedule of 10 steps as each process is used."""
    process = toys.processes()[name]
    if name == "variance_preserving":
        return trained_steps(process, num_steps=10, spacing="trailing")
    if name in ("flow", "trigonometric"):
        return shifted(process, num_steps=10, shift=2.0)  # from pure noise, alpha = 0
    return karras(process, num_steps=10)


@pytest.mark.parametrize("eta", [0.4, 1.0])
@pytest.mark.parametrize("name", [*PROCESSES, "trigonometric"])
def test_law_of_first_order(name, eta):
    """DDPM, ancestral Euler and the flow's SDE make samples of the discretised chain's exact law.

    The chain is derived from Bayes' rule (`eta = 1`: the posterior's own mean), not from the
    solver's formula.

    Kills: up and down exchanged; `eta` squared; fresh noise of the wrong scale; noise in the last
    step; `alpha` of the wrong end.
    """
    schedule = schedules(name)
    assert_law(
        first_order(schedule, eta=eta),
        lambda i, x, noise: posterior_step(schedule, i, eta, x, noise),
    )


@pytest.mark.parametrize("churn", [2.0, 80.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_law_of_churned_heun(name, churn):
    """Churned Heun makes samples of the exact law of Algorithm 2.

    `noise_inflation` is far above the published 1.003 so that its absence shows.

    Kills: S_noise left out; gamma uncapped (80) or of T + 1 (2); another window; a first slope
    taken before churning.
    """
    schedule = karras(toys.processes()[name], num_steps=10, sigma_min=SIGMA_MIN)
    settings = {"churn": churn, "churn_min": 0.5, "churn_max": 20.0, "noise_inflation": 1.05}
    solver = heun(schedule, **settings)
    assert 0 < sum(solver.active) < 10
    assert_law(solver, lambda i, x, noise: churned_step(schedule, i, settings, x, noise))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_marginals_at_every_eta(name, eta):
    """Every `eta` has the same marginals: with many steps all samples are of the target itself.

    The law of the chain is the solver's (the test above); in the limit of small steps its mean and
    variance are those of the Gaussian, whatever `eta`.

    Kills: a down that does not make up for up, which is a law of its own at any step count.
    """
    process = toys.processes()[name]
    levels = np.geomspace(150.0, 0.0101, 1200)
    schedule = at(process, process.time(levels))
    solver = first_order(schedule, eta=eta)
    denoiser = toys.gaussian(MEAN, STD, MEAN.shape, process)

    @jax.jit
    def probe(x, noise):
        steps = jnp.arange(solver.num_steps)
        return solver.step(lambda x, t: denoiser(x, t, None), x, steps, noise, ()).x

    zero = np.zeros((solver.num_steps, 3), np.float32)
    shift = np.asarray(probe(zero, zero), np.float64)
    slope = np.asarray(probe(zero + 1, zero), np.float64) - shift
    fresh = np.asarray(probe(zero, zero + 1), np.float64) - shift
    # Start from the exact marginal, so that only the steps can be wrong.
    mean = schedule.alpha[0] * MEAN
    variance = schedule.alpha[0] ** 2 * STD**2 + schedule.sigma[0] ** 2
    for i in range(solver.num_steps):
        mean = shift[i] + slope[i] * mean
        variance = slope[i] ** 2 * variance + fresh[i] ** 2
    np.testing.assert_allclose(mean, MEAN, rtol=0.01)
    np.testing.assert_allclose(variance, STD**2, rtol=0.03)
