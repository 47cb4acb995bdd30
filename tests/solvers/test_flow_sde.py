"""The flow's stochastic sampler against its equation, and its marginals on an exact Gaussian."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import (
    at,
    continuous_variance_preserving,
    edm,
    flow,
    karras,
    shifted,
    trigonometric,
    variance_preserving_path,
)
from jaxsearch.core.types import Process, Schedule
from jaxsearch.solvers import first_order, flow_sde
from tests import toys

# Asymmetric and of different widths: a symmetric target cannot show a wrong sign.
MEAN = np.array([0.7, -1.1, 0.2])
STD = np.array([0.5, 1.3, 0.15])
FLOWS = {"flow": flow(), "trigonometric": trigonometric()}
PATH = continuous_variance_preserving()


def slope(values, t, step=1e-6):
    """A derivative by time."""
    low, high = t - step, t + step
    return (values(high) - values(low)) / (high - low)


# ------------------------------------------------------------------------------ the equation itself


def equation(process: Process, g, begin: float, end: float, x0, x):
    """Mean and variance after a step of the reverse equation whose clean estimate is held.

    Runge-Kutta on the moments, float64, in logarithmic time: nothing here is what the solver does.
    """

    def moments(t, mean, variance):
        alpha, sigma = process.alpha(t), process.sigma(t)
        eps = (mean - alpha * x0) / sigma
        velocity = slope(process.alpha, t) * x0 + slope(process.sigma, t) * eps
        score = -eps / sigma
        rate = slope(process.sigma, t) / sigma + 0.5 * g(t) ** 2 / sigma**2
        # Time runs backwards: what the noise adds is added whichever way it runs.
        return velocity - 0.5 * g(t) ** 2 * score, 2 * rate * variance - g(t) ** 2

    times = np.geomspace(begin, end, 400)
    mean, variance = x, np.zeros_like(x)
    for now, after in itertools.pairwise(times):
        h, middle = after - now, 0.5 * (now + after)
        first = moments(now, mean, variance)
        second = moments(middle, mean + h / 2 * first[0], variance + h / 2 * first[1])
        third = moments(middle, mean + h / 2 * second[0], variance + h / 2 * second[1])
        fourth = moments(after, mean + h * third[0], variance + h * third[1])
        parts = zip(first, second, third, fourth, strict=True)
        dm, dv = (h / 6 * (a + 2 * b + 2 * c + d) for a, b, c, d in parts)
        mean, variance = mean + dm, variance + dv
    return mean, np.sqrt(variance)


CASES = {
    "square": ("flow", "own", {}),
    "sigma": ("flow", "own", {"scale": 2**0.5, "power": 0.5}),
    "constant": ("trigonometric", "own", {"scale": 0.8, "power": 0.0}),
    "path": ("flow", "variance_preserving", {"scale": 1.5, "power": 1.0}),
    "other_path": ("trigonometric", "variance_preserving", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_equation(case):
    """On the path whose time the coefficient is of, from where the schedule's own latent stands.

    Kills: `g` for its square; half of it forgotten; the time of one path for the other's; noise
    that is not taken off what was predicted.
    """
    name, path, settings = CASES[case]
    process = FLOWS[name]
    make = shifted if path == "own" else variance_preserving_path
    schedule = make(process, num_steps=5)
    solver = flow_sde(schedule, path=path, **settings)
    clock = process if path == "own" else PATH
    scale, power = settings.get("scale", 3.0), settings.get("power", 2.0)
    with np.errstate(divide="ignore"):
        levels = schedule.sigma / schedule.alpha
    times = clock.time(levels)
    x0 = MEAN
    denoiser = toys.gaussian(MEAN, 0.0 * STD, MEAN.shape, process)  # it always says the mean
    for i in range(1, solver.num_steps - 1):
        x = schedule.alpha[i] * x0 + schedule.sigma[i] * np.array([0.3, -1.2, 2.0])
        zoom = clock.alpha(times[i]) / schedule.alpha[i]  # from one path to the other
        after = clock.alpha(times[i + 1]) / schedule.alpha[i + 1]
        wanted = equation(clock, lambda t: scale * t**power, times[i], times[i + 1], x0, zoom * x)
        rows = np.tile(x, (2, 1)).astype(np.float32)
        noise = np.stack([np.zeros(3), np.ones(3)]).astype(np.float32)
        index = jnp.full(2, i)
        plain, moved = solver.step(lambda x, t: denoiser(x, t, None), rows, index, noise, ()).x
        np.testing.assert_allclose(after * plain, wanted[0], rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(after * (moved - plain), wanted[1], rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(solver.noise_scale[i] * after, wanted[1], rtol=2e-3, atol=2e-4)
    assert solver.noise_scale[-1] == 0


def test_the_published_change_of_path():
    """A velocity of the straight path as one of the other, by the formula of Kim et al. 2025.

        u'(x, s) = (c'/c) x + c t' u(x/c, t)

    It is the one that clean estimate and noise have there, which both paths share.
    """
    straight = flow()

    def time(s):
        return straight.time(PATH.sigma(s) / PATH.alpha(s))

    def zoom(s):
        return PATH.sigma(s) / straight.sigma(time(s))

    for s in (0.2, 0.5, 0.9):
        x0, eps = np.array([0.4, -2.0]), np.array([1.5, 0.3])
        x = PATH.alpha(s) * x0 + PATH.sigma(s) * eps
        t, c = time(s), zoom(s)
        np.testing.assert_allclose(x / c, (1 - t) * x0 + t * eps, rtol=1e-9)
        wanted = slope(zoom, s) / c * x + c * slope(time, s) * (eps - x0)
        found = slope(PATH.alpha, s) * x0 + slope(PATH.sigma, s) * eps
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


# ---------------------------------------------------------------------------------------- marginals


@functools.cache
def law(process_name: str, path: str, scale: float, power: float, num_steps: int):
    """Mean and variance of samples of the Gaussian, and of what is left of the first latent."""
    process = FLOWS[process_name]
    if path == "own":
        schedule = at(process, np.geomspace(0.995, 0.01, num_steps))
    else:
        schedule = variance_preserving_path(process, num_steps=num_steps)
    solver = flow_sde(schedule, scale=scale, power=power, path=path)
    denoiser = toys.gaussian(MEAN, STD, MEAN.shape, process)

    @jax.jit
    def probe(x, noise):
        steps = jnp.arange(solver.num_steps)
        return solver.step(lambda x, t: denoiser(x, t, None), x, steps, noise, ()).x

    zero = np.zeros((num_steps, 3), np.float32)
    shift = np.asarray(probe(zero, zero), np.float64)
    kept = np.asarray(probe(zero + 1, zero), np.float64) - shift
    fresh = np.asarray(probe(zero, zero + 1), np.float64) - shift
    # Start from the exact marginal, so that only the steps can be wrong.
    mean = schedule.alpha[0] * MEAN
    variance = schedule.alpha[0] ** 2 * STD**2 + schedule.sigma[0] ** 2
    link = np.ones(3)
    for i in range(num_steps):
        mean = shift[i] + kept[i] * mean
        variance = kept[i] ** 2 * variance + fresh[i] ** 2
        link = link * kept[i]
    return mean, variance, link


@pytest.mark.parametrize(
    ("process", "path", "scale", "power"),
    [
        ("flow", "own", 0.0, 2.0),
        ("flow", "own", 3.0, 2.0),
        ("flow", "own", 0.5, 0.0),
        ("trigonometric", "own", 3.0, 2.0),
        ("flow", "variance_preserving", 3.0, 2.0),
        ("trigonometric", "variance_preserving", 1.0, 0.5),
    ],
)
def test_every_coefficient_keeps_the_marginals(process, path, scale, power):
    """With many steps samples are of the target itself, whatever `g`, on both paths.

    Kills: noise that is not taken off what was predicted.
    """
    mean, variance, link = law(process, path, scale, power, 1500)
    np.testing.assert_allclose(mean, MEAN, rtol=0.02, atol=0.005)
    np.testing.assert_allclose(variance, STD**2, rtol=0.04)
    # The more noise is injected, the less is left of the first.
    assert np.all(link < law(process, path, 0.0, power, 1500)[2]) == (scale > 0)


def test_the_error_goes_with_the_steps():
    """First order: four times the steps, a quarter of the error, about."""
    errors = [
        np.max(np.abs(law("flow", "variance_preserving", 3.0, 2.0, num)[1] / STD**2 - 1))
        for num in (50, 200)
    ]
    assert 2.5 < errors[0] / errors[1] < 6.0


# ----------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize("name", FLOWS)
def test_the_path_is_where_a_solver_stops(name):
    """Even times of the path, at its ratios; half of them above 0.77 of the straight one."""
    schedule = variance_preserving_path(FLOWS[name], num_steps=10)
    levels = np.sqrt(np.exp(2 * (0.25 * 19.9 * np.linspace(1, 0.1, 10) ** 2
                                 + 0.05 * np.linspace(1, 0.1, 10))) - 1)  # fmt: skip
    np.testing.assert_allclose(schedule.levels, levels, rtol=1e-9)
    np.testing.assert_allclose(PATH.time(levels), np.linspace(1, 0.1, 10), rtol=1e-9)
    assert schedule.sigma[-1] == 0
    if name == "flow":
        assert schedule.times[5] == pytest.approx(0.774, abs=1e-3)


def test_a_latent_of_one_path_is_one_of_the_other_times_a_number():
    """The same noises on the straight path and on the trigonometric one, by `first_order`."""
    noises = np.random.default_rng(0).normal(size=(6, 1, 3)).astype(np.float32)
    ends = []
    for process in FLOWS.values():
        schedule: Schedule = variance_preserving_path(process, num_steps=5)
        solver = first_order(schedule)
        denoiser = toys.gaussian(MEAN, STD, MEAN.shape, process)
        start = schedule.alpha[0] * MEAN + schedule.sigma[0] * noises[0]
        x = start.astype(np.float32)
        for i in range(5):
            index = jnp.full(1, i)
            x = solver.step(lambda x, t: denoiser(x, t, None), x, index, noises[i + 1], ()).x  # noqa: B023
        ends.append(x)
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-5)


MISTAKES = {
    "scale": (lambda: flow_sde(shifted(flow()), scale=-1.0), "scale is -1.0"),
    "power": (lambda: flow_sde(shifted(flow()), power=-0.5), "power is -0.5"),
    "process": (lambda: flow_sde(karras(edm())), "the edm process is no flow: take the solver"),
    "path": (lambda: flow_sde(shifted(flow()), path="gvp"), "unknown path 'gvp'"),
    "start": (
        lambda: flow_sde(shifted(flow()), path="variance_preserving"),
        "begins at a noise level of 152.2, but the schedule at inf: take the schedule",
    ),
    "rates": (
        lambda: variance_preserving_path(flow(), beta_min=3.0, beta_max=2.0),
        r"beta_max is 2.0: it must lie in \(3, inf\)",
    ),
    "steps": (lambda: variance_preserving_path(flow(), num_steps=0), "num_steps is 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
