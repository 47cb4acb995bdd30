"""Forward processes, and the schedules on which solvers visit them. NumPy float64 throughout."""

from __future__ import annotations

import functools

import numpy as np

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import Process, Schedule

# --------------------------------------------------------------------------------------- processes


@functools.cache
def edm() -> Process:
    """`x = x0 + t*eps`: time is the noise level (Karras et al. 2022, table 1, last column)."""
    return Process(
        name="edm",
        alpha=np.ones_like,
        sigma=lambda t: t,
        time=lambda ratio: ratio,
        prior_scale=float,
    )


@functools.cache
def variance_preserving(
    *, beta_start: float, beta_end: float, shape: str, num_train_steps: int = 1000
) -> Process:
    """The discrete variance-preserving process (Ho et al. 2020, equation 4).

    `alpha^2` is the running product of `1 - beta`; time is the index of the training step, and is
    interpolated in the logarithm of the noise-to-signal ratio between steps.

    Args:
        beta_start: the first `beta`.
        beta_end: the last `beta`.
        shape: `"linear"` in `beta`, or `"scaled_linear"`: linear in its square root.
        num_train_steps: how many.

    Raises:
        ValueError: for an unknown shape.
    """
    if shape == "linear":
        betas = np.linspace(beta_start, beta_end, num_train_steps)
    elif shape == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_train_steps) ** 2
    else:
        raise ValueError(f"unknown shape {shape!r} of betas: take 'linear' or 'scaled_linear'")
    alpha2 = np.cumprod(1.0 - betas)
    log_ratio = 0.5 * (np.log1p(-alpha2) - np.log(alpha2))
    index = np.arange(num_train_steps, dtype=np.float64)

    def ratio(t: np.ndarray) -> np.ndarray:
        return np.exp(np.interp(t, index, log_ratio))

    return Process(
        name="variance_preserving",
        alpha=lambda t: 1.0 / np.sqrt(1.0 + ratio(t) ** 2),
        sigma=lambda t: ratio(t) / np.sqrt(1.0 + ratio(t) ** 2),
        time=lambda r: np.interp(np.log(r), log_ratio, index),
        prior_scale=lambda t: 1.0,
    )


@functools.cache
def flow() -> Process:
    """`x = (1 - t)*x0 + t*eps`: the straight path of flow matching (Lipman et al. 2023).

    Noise is at t = 1.
    """

    def time(ratio: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return 1.0 / (1.0 + 1.0 / np.asarray(ratio, np.float64))  # 1 at an infinite ratio

    return Process(
        name="flow",
        alpha=lambda t: 1.0 - t,
        sigma=lambda t: t,
        time=time,
        prior_scale=float,
    )


@functools.cache
def trigonometric() -> Process:
    """`x = cos(pi*t/2)*x0 + sin(pi*t/2)*eps`: noise turns into signal at an even angle.

    Noise is at t = 1. It keeps the variance in continuous time: the "GVP" path of Ma et al. 2024,
    *SiT*, section 2, https://arxiv.org/abs/2401.08740.
    """
    quarter = np.pi / 2
    return Process(
        name="trigonometric",
        alpha=lambda t: np.sin(quarter * (1.0 - t)),  # unlike the cosine exactly 0 at t = 1
        sigma=lambda t: np.sin(quarter * t),
        time=lambda ratio: np.arctan(ratio) / quarter,
        prior_scale=lambda t: 1.0,
    )


@functools.cache
def continuous_variance_preserving(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """`alpha(s)^2 = exp(-s^2*(beta_max - beta_min)/2 - s*beta_min)`, `sigma^2 = 1 - alpha^2`.

    Time goes from 0, the clean sample, to 1 (Song et al. 2021, *Score-based generative modeling
    through stochastic differential equations*, equation 33).

    Args:
        beta_min: the rate of noise at time 0, above 0.
        beta_max: the rate at time 1, above the former.

    Raises:
        ValueError: if a rate is out of its range.
    """
    check_range("beta_min", beta_min, 0.0, open_low=True)
    check_range("beta_max", beta_max, beta_min, open_low=True)
    growth = beta_max - beta_min

    def log_alpha(s: np.ndarray) -> np.ndarray:
        return -0.25 * growth * np.square(s) - 0.5 * beta_min * np.asarray(s)

    def time(ratio: np.ndarray) -> np.ndarray:
        spent = np.log1p(np.square(np.asarray(ratio, np.float64)))  # -2 * log alpha
        with np.errstate(invalid="ignore"):
            found = 2.0 * spent / (beta_min + np.sqrt(beta_min**2 + 2.0 * growth * spent))
        return np.where(np.isinf(spent), np.inf, found)

    return Process(
        name="continuous_variance_preserving",
        alpha=lambda s: np.exp(log_alpha(s)),
        sigma=lambda s: np.sqrt(-np.expm1(2.0 * log_alpha(s))),
        time=time,
        prior_scale=lambda s: 1.0,
    )


# --------------------------------------------------------------------------------------- schedules


def at(process: Process, times: np.ndarray, *, final: float | None = None) -> Schedule:
    """The schedule that visits `times` [T] (decreasing noise) and ends at time `final`.

    Args:
        process: the forward process.
        times: where the network is called.
        final: the time of the last point; None ends in the clean sample.

    Raises:
        ValueError: if a time lies outside the process or the noise does not decrease.
    """
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or len(times) < 1:
        raise ValueError(f"times must be a list of at least one time, not {times.tolist()}")
    visited = times if final is None else np.append(times, float(final))
    alpha, sigma = process.alpha(visited), process.sigma(visited)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = (alpha >= 0) & np.isclose(process.time(sigma / alpha), visited)
    if not np.all(inside):
        raise ValueError(
            f"time {visited[~inside][0]:g} lies outside the {process.name} process; "
            f"the times are {visited.tolist()}"
        )
    if final is None:
        # The time of the clean sample is a label only: no network is called there.
        visited, alpha, sigma = (np.append(v, e) for v, e in ((visited, 0), (alpha, 1), (sigma, 0)))
    if not np.all(alpha[1:] * sigma[:-1] > alpha[:-1] * sigma[1:]):
        raise ValueError(f"noise must decrease from time to time, but they are {visited.tolist()}")
    return Schedule(process, visited, alpha, sigma)


@reused
def karras(
    process: Process,
    *,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Schedule:
    """Noise levels evenly spaced in `sigma^(1/rho)` (Karras et al. 2022, equation 5).

    The levels are noise-to-signal ratios, so the schedule serves every process. The defaults are
    EDM's; a discrete process reaches neither down to 0.002 nor, with some `beta`, up to 80.

    Args:
        process: any.
        num_steps: T, solver steps, at least 1.
        sigma_min: the last level before the clean sample, above 0.
        sigma_max: the first level.
        rho: how closely levels crowd at the low end, above 0; 1 spaces them evenly.

    Raises:
        ValueError: if a number is out of its range, or a level out of the process's.
    """
    check_count("num_steps", num_steps)
    check_range("sigma_max", sigma_max, 0.0, open_low=True)
    check_range("sigma_min", sigma_min, 0.0, sigma_max, open_low=True)
    check_range("rho", rho, 0.0, open_low=True)
    ramp = np.arange(num_steps) / max(num_steps - 1, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        start, end = np.float64(sigma_max) ** (1 / rho), np.float64(sigma_min) ** (1 / rho)
        levels = (start + ramp * (end - start)) ** rho
    if not np.isclose(levels[0], sigma_max):
        raise ValueError(f"rho is {rho:g}: sigma^(1/rho) leaves float64; take a rho nearer to 7")
    return _at_levels(process, levels)


def _at_levels(process: Process, levels: np.ndarray) -> Schedule:
    """The schedule that visits noise-to-signal ratios [T], finite and above 0.

    Raises:
        ValueError: if the process does not have them.
    """
    times = process.time(levels)
    reached = process.sigma(times) / process.alpha(times)
    if not np.allclose(reached, levels, rtol=1e-6, atol=0):
        raise ValueError(
            f"the {process.name} process has no noise-to-signal ratios from {levels[0]:g} to "
            f"{levels[-1]:g}, only from {reached.max():g} to {reached.min():g} of these"
        )
    return at(process, times)


@reused
def trained_steps(
    process: Process,
    *,
    num_steps: int = 50,
    spacing: str = "leading",
    offset: int = 0,
    final: str = "clean",
) -> Schedule:
    """A subset of the training steps of a discrete process (Lin et al. 2024, table 2).

    Args:
        process: a `variance_preserving` process.
        num_steps: how many of its training steps.
        spacing: `"leading"` multiples of the stride plus `offset`, `"trailing"` from the last step
            down, `"linspace"` both ends included.
        offset: added under `"leading"` (1 for Stable Diffusion).
        final: where the last step leads: to the `"clean"` sample, or to the noise of the `"first"`
            training step (Stable Diffusion's DDIM, `set_alpha_to_one=False`).

    Raises:
        ValueError: if the process is not discrete, there are more steps than training steps, one
            lies outside them, or the spacing or the end is unknown.
    """
    check_count("num_steps", num_steps)
    if process.name != "variance_preserving":
        raise ValueError(f"the {process.name} process has no training steps: take another schedule")
    num_train_steps = int(process.time(np.asarray(np.inf))) + 1
    if num_steps > num_train_steps:
        raise ValueError(f"num_steps is {num_steps}, but the process has {num_train_steps} steps")
    if final not in ("clean", "first"):
        raise ValueError(f"unknown end {final!r}: take 'clean' or 'first'")
    if offset and spacing != "leading":
        raise ValueError(f"offset is {offset}, but only spacing 'leading' has one, not {spacing!r}")
    if spacing == "leading":
        times = np.arange(num_steps, dtype=np.float64)[::-1] * (num_train_steps // num_steps)
        times = times + offset
    elif spacing == "trailing":
        times = np.round(num_train_steps - np.arange(num_steps) * (num_train_steps / num_steps)) - 1
    elif spacing == "linspace":
        times = np.round(np.linspace(0, num_train_steps - 1, num_steps))[::-1]
    else:
        raise ValueError(f"unknown spacing {spacing!r}: take 'leading', 'trailing' or 'linspace'")
    return at(process, times, final=None if final == "clean" else 0.0)


@reused
def shifted(
    process: Process,
    *,
    num_steps: int = 30,
    shift: float = 1.0,
    smallest: float | None = None,
) -> Schedule:
    """Even times from 1 to 0, moved towards noise by `shift` (Esser et al. 2024, equation 23).

    `t' = shift*t / (1 + (shift - 1)*t)`; 1 leaves them even.

    Args:
        process: `flow` or `trigonometric`, whose times go from 1 to 0.
        num_steps: T, solver steps, at least 1.
        shift: how far times move towards noise, above 0.
        smallest: the last time before the clean sample, before it is moved, in (0, 1); others are
            even from 1 to it. null: as far from 0 as from the one before.

    Raises:
        ValueError: if the process has other times, or a number is out of its range.
    """
    check_count("num_steps", num_steps)
    check_range("shift", shift, 0.0, open_low=True)
    if process.name not in ("flow", "trigonometric"):
        raise ValueError(
            f"the {process.name} process has no times from 1 to 0: take the schedule karras"
        )
    if smallest is None:
        times = np.linspace(1.0, 0.0, num_steps + 1)[:-1]
    else:
        check_range("smallest", smallest, 0.0, 1.0, open_low=True, open_high=True)
        times = np.linspace(1.0, smallest, num_steps)
    return at(process, shift * times / (1.0 + (shift - 1.0) * times))


@reused
def variance_preserving_path(
    process: Process, *, num_steps: int = 30, beta_min: float = 0.1, beta_max: float = 20.0
) -> Schedule:
    """Even times of the variance-preserving path, whatever path the network was trained on.

    Noise-to-signal ratios are what two paths have in common: where theirs are equal, a latent of
    one is a latent of the other times a number, and clean estimate and noise are the same. So the
    change of path (Kim et al. 2025, *Inference-time scaling for flow models via stochastic
    generation and rollover budget forcing*, section 4) is where a solver stops. Half
    of these times lie above 0.77 of a straight path.

    Args:
        process: any that reaches the path's first ratio, 152 by default.
        num_steps: T, solver steps, at least 1.
        beta_min: the rate of noise at the clean end, above 0.
        beta_max: the rate at the other end, above the former.

    Raises:
        ValueError: if a number is out of its range, or the process does not reach the ratios.
    """
    check_count("num_steps", num_steps)
    path = continuous_variance_preserving(beta_min=beta_min, beta_max=beta_max)
    times = np.linspace(1.0, 0.0, num_steps + 1)[:-1]
    return _at_levels(process, path.sigma(times) / path.alpha(times))


SCHEDULES = {
    "karras": karras,
    "shifted": shifted,
    "trained_steps": trained_steps,
    "variance_preserving_path": variance_preserving_path,
}
"""Schedules by name: `(process, *, settings) -> Schedule`."""
