"""The stochastic sampler of a flow with a chosen diffusion coefficient."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.process import continuous_variance_preserving
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import Process, Schedule, Solver
from jaxsearch.solvers.first_order import replacing

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


@reused
def flow_sde(
    schedule: Schedule,
    *,
    scale: float = 3.0,
    power: float = 2.0,
    path: Literal["own", "variance_preserving"] = "own",
) -> Solver:
    """A flow's stochastic sampler whose diffusion coefficient is `g(t) = scale * t^power`.

        dx = (u - g^2/2 * score) dt + g dw,  from t = 1, the noise, to t = 0

    has the marginals of the flow `dx = u dt` for any `g` (Ma et al. 2024, *SiT*, equation 5). Along
    a step the clean estimate is held; then the rest is linear in the noise, and is solved as it is
    instead of by a step of Euler's: the fraction `exp(-L/2)` of the predicted noise stays, with `L`
    the integral of `g^2 / sigma^2` over the step, and fresh noise takes the place of the others. So
    a step is stable however large `g` is. The step to the clean sample injects none.

    SiT's own are `power` 0.5 (`sigma`) and 0 (`constant`); Kim et al. 2025, *Inference-time scaling
    for flow models via stochastic generation and rollover budget forcing*, section 4, search on a
    multiple of `t^2`. The diffusion that belongs to the forward process is `first_order`.

    Args:
        schedule: the points to visit.
        scale: by what the coefficient is multiplied, at least 0; 0 is the flow itself.
        power: of time, at least 0: the more, the sooner the noise dies down.
        path: whose time `t` is. `"variance_preserving"`: of the path that keeps the variance, for
            the schedule `variance_preserving_path`.

    Raises:
        ValueError: if a number is out of its range, the process has no times from 1 to 0, or the
            path does not reach as far as the schedule.
    """
    check_range("scale", scale, 0.0)
    check_range("power", power, 0.0)
    if schedule.process.name not in ("flow", "trigonometric"):
        raise ValueError(
            f"the {schedule.process.name} process is no flow: take the solver first_order"
        )
    clock, times = _clock(schedule, path)
    spent = np.asarray(
        [
            _replaced(clock, scale, power, end, begin) if end > 0 else 0.0
            for begin, end in itertools.pairwise(times)
        ]
    )
    return replacing("flow_sde", schedule, schedule.sigma[1:] * np.sqrt(-np.expm1(-spent)))


def _clock(schedule: Schedule, path: str) -> tuple[Process, np.ndarray]:
    """The process whose time is meant, and the schedule's points in it [T + 1]."""
    if path == "own":
        return schedule.process, schedule.times
    if path != "variance_preserving":
        raise ValueError(f"unknown path {path!r}: take 'own' or 'variance_preserving'")
    clock = continuous_variance_preserving()
    times = clock.time(schedule.levels)
    if not times[0] < 1.0 + 1e-6:
        raise ValueError(
            "the variance_preserving path begins at a noise level of "
            f"{clock.sigma(np.ones(())) / clock.alpha(np.ones(())):.4g}, but the schedule at "
            f"{schedule.levels[0]:.4g}: take the schedule variance_preserving_path"
        )
    last = schedule.sigma[-1] / schedule.alpha[-1]
    return clock, np.append(times, clock.time(last))


def _replaced(clock: Process, scale: float, power: float, low: float, high: float) -> float:
    """The integral of `(scale * t^power / sigma(t))^2` over a step, by its logarithm."""
    middle, half = 0.5 * np.log(high * low), 0.5 * np.log(high / low)
    times = np.exp(middle + half * _NODES)
    values = (scale * times**power / clock.sigma(times)) ** 2 * times
    return float(half * np.sum(_WEIGHTS * values))
