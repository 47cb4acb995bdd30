"""Processes invert, schedules decrease and equal published tables, and mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest

from jaxsearch.core.process import (
    at,
    edm,
    flow,
    karras,
    shifted,
    trained_steps,
    trigonometric,
    variance_preserving,
)
from jaxsearch.solvers.first_order import first_order
from jaxsearch.solvers.heun import heun
from tests import toys

PROCESSES = ("edm", "variance_preserving", "flow", "trigonometric")
VP = {"beta_start": 0.00085, "beta_end": 0.012, "shape": "scaled_linear"}


# ---------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("name", PROCESSES)
def test_time_inverts_the_ratio(name):
    """`time(sigma(t) / alpha(t)) = t`, between the training steps as well.

    Kills: interpolation in the ratio on one side and its logarithm on the other; a missing `1 +`.
    """
    process = toys.processes()[name]
    times = {
        "edm": np.geomspace(0.002, 80.0, 50),
        "variance_preserving": np.append(np.linspace(0.0, 999.0, 50), [0.3, 500.5]),
        "flow": np.linspace(0.001, 0.999, 50),
        "trigonometric": np.linspace(0.001, 0.999, 50),
    }[name]
    ratio = process.sigma(times) / process.alpha(times)
    np.testing.assert_allclose(process.time(ratio), times, rtol=1e-12, atol=1e-9)
    assert ratio.dtype == np.float64


def test_edm():
    """Time is the noise level, and the first latent has that standard deviation."""
    times = np.array([0.5, 80.0])
    np.testing.assert_array_equal(edm().alpha(times), [1.0, 1.0])
    np.testing.assert_array_equal(edm().sigma(times), times)
    assert edm().prior_scale(80.0) == 80.0


def test_flow():
    """The straight path, with both of its ends."""
    times = np.array([0.0, 0.25, 1.0])
    np.testing.assert_array_equal(flow().alpha(times), [1.0, 0.75, 0.0])
    np.testing.assert_array_equal(flow().sigma(times), times)
    np.testing.assert_array_equal(flow().time(np.array([0.0, 1.0, np.inf])), [0.0, 0.5, 1.0])
    assert flow().prior_scale(1.0) == 1.0


def test_trigonometric():
    """Even angles from signal to noise, with both ends exact: solvers ask whether `alpha` is 0.

    Kills: the cosine of a rounded quarter turn, which is 6e-17; the halves exchanged.
    """
    process, times = trigonometric(), np.array([0.0, 1 / 3, 1.0])
    np.testing.assert_allclose(process.alpha(times), [1.0, 3**0.5 / 2, 0.0], rtol=1e-15)
    np.testing.assert_allclose(process.sigma(times), [0.0, 0.5, 1.0], rtol=1e-15)
    assert (process.alpha(times)[0], process.sigma(times)[0]) == (1.0, 0.0)
    assert (process.alpha(times)[2], process.sigma(times)[2]) == (0.0, 1.0)
    np.testing.assert_array_equal(process.time(np.array([0.0, 1.0, np.inf])), [0.0, 0.5, 1.0])
    assert process.prior_scale(1.0) == 1.0


@pytest.mark.parametrize("shape", ["linear", "scaled_linear"])
def test_variance_preserving_by_running_product(shape):
    """`alpha^2` is the product of `1 - beta`, step by step in a loop.

    Kills: the product starting one step late; `beta` squared under `linear`.
    """
    process = variance_preserving(beta_start=0.001, beta_end=0.03, shape=shape, num_train_steps=100)
    product, expected = 1.0, []
    for i in range(100):
        if shape == "linear":
            beta = 0.001 + (0.03 - 0.001) * i / 99
        else:
            beta = (0.001**0.5 + (0.03**0.5 - 0.001**0.5) * i / 99) ** 2
        product *= 1.0 - beta
        expected.append(product)
    times = np.arange(100)
    np.testing.assert_allclose(process.alpha(times) ** 2, expected, rtol=1e-12)
    total = process.alpha(times) ** 2 + process.sigma(times) ** 2
    np.testing.assert_allclose(total, 1.0, rtol=1e-14)
    assert process.prior_scale(99.0) == 1.0


@pytest.mark.parametrize(
    ("beta_start", "beta_end", "shape"),
    [(1e-4, 0.02, "linear"), (0.00085, 0.012, "scaled_linear")],
)
def test_variance_preserving_of_diffusers(beta_start, beta_end, shape):
    """The table of `diffusers`, which makes it in float32: a thousand roundings of 6e-8."""
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(
        beta_start=beta_start, beta_end=beta_end, beta_schedule=shape
    )
    process = variance_preserving(beta_start=beta_start, beta_end=beta_end, shape=shape)
    ours = process.alpha(np.arange(1000)) ** 2
    np.testing.assert_allclose(ours, scheduler.alphas_cumprod.numpy(), rtol=3e-5)


def test_processes_are_shared():
    """Equal arguments give the same object, so that compiled programs are found again."""
    assert edm() is edm()
    assert flow() is flow()
    assert trigonometric() is trigonometric()
    assert variance_preserving(**VP) is variance_preserving(**VP)
    assert variance_preserving(**VP) is not variance_preserving(**{**VP, "beta_end": 0.02})


# ---------------------------------------------------------------------------------------- schedules


def test_karras_grid():
    """The 18 levels of EDM's published sampler (Karras et al. 2022, table 1).

    Kills: rho inverted; the ramp divided by T; the last level not 0.
    """
    schedule = karras(edm())
    published = [
        80.0, 57.586, 40.786, 28.375, 19.352, 12.910, 8.401, 5.315, 3.257, 1.923, 1.088,
        0.5853, 0.2964, 0.1395, 0.0599, 0.0229, 0.0075, 0.0020, 0.0,
    ]  # fmt: skip
    digits = np.array([3] * 11 + [4] * 8)
    assert schedule.num_steps == 18
    assert np.all(np.abs(schedule.sigma - published) <= 0.501 * 10.0**-digits)
    np.testing.assert_array_equal(schedule.alpha, 1.0)


@pytest.mark.parametrize("name", PROCESSES)
def test_karras_levels_are_those_of_every_process(name):
    """The same noise-to-signal ratios whatever the process, and its own times.

    Kills: levels taken for `sigma` instead of `sigma / alpha`.
    """
    process = toys.processes()[name]
    schedule = karras(process, num_steps=7, sigma_min=0.02, sigma_max=50.0, rho=5.0)
    ramp = np.linspace(50.0**0.2, 0.02**0.2, 7) ** 5
    np.testing.assert_allclose(schedule.sigma[:-1] / schedule.alpha[:-1], ramp, rtol=1e-10)
    np.testing.assert_allclose(process.sigma(schedule.times[:-1]), schedule.sigma[:-1])
    assert (schedule.alpha[-1], schedule.sigma[-1]) == (1.0, 0.0)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_schedules_decrease(num_steps):
    """Noise-to-signal ratios fall at every step and end at 0, and there are T + 1 points."""
    processes = toys.processes()
    vp = processes["variance_preserving"]
    made = [karras(p, num_steps=num_steps, sigma_min=0.02) for p in processes.values()]
    made += [trained_steps(vp, num_steps=num_steps, spacing=s) for s in ("leading", "trailing")]
    made += [shifted(flow(), num_steps=num_steps, shift=s) for s in (0.5, 1.0, 3.0)]
    if num_steps > 1:
        made.append(trained_steps(vp, num_steps=num_steps, spacing="linspace"))
    for schedule in made:
        inverse = schedule.alpha / np.maximum(schedule.sigma, 1e-30)
        assert np.all(np.diff(inverse) > 0)
        assert schedule.sigma[-1] == 0.0
        assert schedule.alpha[-1] == 1.0
        assert schedule.num_steps == num_steps == len(schedule.times) - 1
        for table in (schedule.times, schedule.alpha, schedule.sigma):
            assert table.dtype == np.float64


def test_one_step_of_linspace_is_the_first_training_step():
    """As `diffusers` has it: `linspace(0, 999, 1)` is 0, so 1 step of it is of little use."""
    schedule = trained_steps(variance_preserving(**VP), num_steps=1, spacing="linspace")
    np.testing.assert_array_equal(schedule.times, [0, 0])


@pytest.mark.parametrize(
    ("spacing", "num_steps", "offset", "expected"),
    [
        # The table of Lin et al. 2024, counted from 0.
        ("leading", 10, 0, [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        ("trailing", 10, 0, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        ("linspace", 10, 0, [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
        ("leading", 4, 1, [751, 501, 251, 1]),
        ("leading", 3, 0, [666, 333, 0]),
        ("trailing", 3, 0, [999, 666, 332]),
        ("linspace", 3, 0, [999, 500, 0]),  # round half to even, of 499.5
    ],
)
def test_spacings(spacing, num_steps, offset, expected):
    """The three spacings.

    Kills: offsets left out or added to all spacings; trailing from 1000; a stride not floored.
    """
    process = variance_preserving(**VP)
    schedule = trained_steps(process, num_steps=num_steps, spacing=spacing, offset=offset)
    np.testing.assert_array_equal(schedule.times[:-1], expected)
    np.testing.assert_array_equal(schedule.alpha[:-1], process.alpha(np.array(expected)))


def test_final():
    """Stable Diffusion's DDIM ends with the noise of the first training step.

    Kills: `final` ignored; `alpha` clean and `sigma` not.
    """
    process = variance_preserving(**VP)
    clean = trained_steps(process, num_steps=50, offset=1)
    first = trained_steps(process, num_steps=50, offset=1, final="first")
    np.testing.assert_array_equal(clean.alpha[:-1], first.alpha[:-1])
    np.testing.assert_array_equal(clean.times, first.times)
    assert (clean.alpha[-1], clean.sigma[-1]) == (1.0, 0.0)
    np.testing.assert_allclose(first.alpha[-1] ** 2, 1 - 0.00085)
    np.testing.assert_allclose(first.sigma[-1] ** 2, 0.00085)


def test_shift():
    """Esser et al. 2024, equation 23, by hand.

    Kills: the inverse shift; the clean end among the times.
    """
    even = shifted(flow(), num_steps=4)
    np.testing.assert_allclose(even.times, [1.0, 0.75, 0.5, 0.25, 0.0])
    moved = shifted(flow(), num_steps=4, shift=3.0)
    np.testing.assert_allclose(moved.sigma, [1.0, 0.9, 0.75, 0.5, 0.0])
    np.testing.assert_allclose(moved.alpha, [0.0, 0.1, 0.25, 0.5, 1.0])
    turned = shifted(trigonometric(), num_steps=4, shift=3.0)
    np.testing.assert_allclose(turned.times, moved.times)
    np.testing.assert_allclose(turned.sigma, np.sin(np.pi / 2 * moved.times))


# ----------------------------------------------------------------------------------------- mistakes


def vp_steps(**changes):
    """Training steps of Stable Diffusion's process."""
    return trained_steps(variance_preserving(**VP), **changes)


MISTAKES = {
    "shape": (lambda: variance_preserving(**{**VP, "shape": "cosine"}), "unknown shape 'cosine'"),
    "empty": (lambda: at(edm(), np.array([])), r"at least one time, not \[\]"),
    "matrix": (lambda: at(edm(), np.ones((2, 2))), "list of at least one time"),
    "rising": (lambda: at(edm(), np.array([1.0, 2.0])), r"noise must decrease .*\[1.0, 2.0"),
    "equal": (lambda: at(flow(), np.array([0.5, 0.5])), "noise must decrease"),
    "clean": (lambda: at(edm(), np.array([1.0, 0.0])), "noise must decrease"),
    "nan": (lambda: at(edm(), np.array([np.nan])), "time nan lies outside the edm process"),
    "negative": (lambda: at(edm(), np.array([1.0, -1.0])), "noise must decrease"),
    "beyond_noise": (lambda: at(flow(), np.array([1.5])), "time 1.5 lies outside the flow"),
    "untrained": (
        lambda: at(variance_preserving(**VP), np.array([1000.0])),
        "time 1000 lies outside the variance_preserving process",
    ),
    "final": (lambda: at(edm(), np.array([1.0]), final=2.0), "noise must decrease"),
    "shifted_end": (lambda: shifted(flow(), smallest=1.0), r"smallest is 1.0: .*\(0, 1\)"),
    "karras_steps": (lambda: karras(edm(), num_steps=0), "num_steps is 0"),
    "karras_order": (lambda: karras(edm(), sigma_min=90.0), r"sigma_min is 90.0: .*\(0, 80\]"),
    "karras_zero": (lambda: karras(edm(), sigma_min=0.0), "sigma_min is 0.0"),
    "karras_equal": (lambda: karras(edm(), sigma_min=80.0), "noise must decrease"),
    "karras_rho": (lambda: karras(edm(), rho=-1.0), "rho is -1.0"),
    "karras_rho_tiny": (lambda: karras(edm(), rho=1e-9), "rho is 1e-09: .* nearer to 7"),
    "karras_rho_huge": (lambda: karras(edm(), rho=1e300), "rho is 1e.300: .* nearer to 7"),
    "karras_inf": (lambda: karras(edm(), sigma_max=np.inf), "sigma_max is inf"),
    "karras_nan": (lambda: karras(edm(), sigma_min=np.nan), "sigma_min is nan"),
    "karras_half": (lambda: karras(edm(), num_steps=2.5), "num_steps is 2.5: .* whole number"),
    "karras_low": (
        lambda: karras(variance_preserving(**VP)),
        "no noise-to-signal ratios from 80 to 0.002, only from 14.6.* to 0.029",
    ),
    "steps": (lambda: vp_steps(num_steps=0), "num_steps is 0"),
    "many": (lambda: vp_steps(num_steps=1001), "num_steps is 1001, .* has 1000 steps"),
    "spacing": (lambda: vp_steps(spacing="even"), "unknown spacing 'even'"),
    "end": (lambda: vp_steps(final="last"), "unknown end 'last'"),
    "offset": (lambda: vp_steps(num_steps=1000, offset=1), "time 1000 lies outside"),
    "offset_below": (lambda: vp_steps(offset=-1), "time -1 lies outside"),
    "offset_unused": (lambda: vp_steps(spacing="trailing", offset=1), "only spacing 'leading'"),
    "first_at_first": (lambda: vp_steps(final="first"), "noise must decrease"),
    "continuous": (lambda: trained_steps(edm()), "edm process has no training steps"),
    "shift": (lambda: shifted(flow(), shift=0.0), "shift is 0.0"),
    "shift_inf": (lambda: shifted(flow(), shift=np.inf), "shift is inf"),
    "shift_process": (lambda: shifted(edm()), "edm process has no times from 1 to 0"),
    "shift_steps": (lambda: shifted(flow(), num_steps=-1), "num_steps is -1"),
    "eta_high": (lambda: first_order(karras(edm()), eta=1.1), "eta is 1.1: it must lie in"),
    "eta_low": (lambda: first_order(karras(edm()), eta=-0.1), "eta is -0.1"),
    "eta_nan": (lambda: first_order(karras(edm()), eta=np.nan), "eta is nan"),
    "churn": (lambda: heun(karras(edm()), churn=-1.0), "churn is -1.0"),
    "churn_inf": (lambda: heun(karras(edm()), churn=np.inf), "churn is inf"),
    "churn_max_nan": (lambda: heun(karras(edm()), churn_max=np.nan), "churn_max is nan"),
    "churn_low": (lambda: heun(karras(edm()), churn_min=-1.0), "churn_min is -1.0"),
    "churn_noise": (lambda: heun(karras(edm()), noise_inflation=0.0), "noise_inflation is 0.0"),
    "churn_window": (
        lambda: heun(karras(edm()), churn_min=60.0),
        r"churn_max is 50.0: .*\[60, inf\)",
    ),
    "pure_noise": (lambda: heun(shifted(flow())), "starts at alpha = 0"),
    "churn_beyond": (
        lambda: heun(vp_steps(spacing="trailing", num_steps=10), churn_max=100.0),
        "churn raises the noise level to .*beyond the variance_preserving process",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    """A number out of range is refused when the schedule or solver is made, and named.

    Kills: each check removed.
    """
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        make()
