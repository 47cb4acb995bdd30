"""EDM's stochastic sampler: churn, an Euler step, and a trapezoidal correction."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.prediction import per_row
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import Array, Prediction, PyTree, Schedule, Solver, StepResult


@reused
def heun(
    schedule: Schedule,
    *,
    churn: float = 40.0,
    churn_min: float = 0.05,
    churn_max: float = 50.0,
    noise_inflation: float = 1.003,
) -> Solver:
    """The stochastic Heun sampler (Karras et al. 2022, algorithm 2).

    Each step raises the noise level from `s` to `s_hat = s*(1 + gamma)` by injecting
    `noise_inflation * sqrt(s_hat^2 - s^2) * noise`, then integrates the probability-flow ODE from
    `s_hat` to the next level with Heun's second-order rule. `gamma = min(churn/T, sqrt(2) - 1)`
    while `churn_min <= s <= churn_max` and 0 elsewhere, so outside that window noise has no effect.
    The last step, to level 0, is Euler's and calls the network once. Levels are noise-to-signal
    ratios and the integration is done on `x / alpha`, so the sampler serves every process.

    The clean estimate it leaves is that of its last network call: the second evaluation, at the
    Euler point (the first one in the last step), as in the first paper's published code.

    Args:
        schedule: the points to visit.
        churn: S_churn, total churn over the trajectory; 0 makes the sampler deterministic.
        churn_min: S_min, the lowest level that is churned.
        churn_max: S_max, the highest; infinity churns from the first step on.
        noise_inflation: S_noise, by what injected noise is scaled.

    Raises:
        ValueError: if a number is out of its range, the schedule starts at pure noise, or churn
            leaves the process.
    """
    check_range("churn", churn, 0.0)
    check_range("churn_min", churn_min, 0.0)
    if churn_max != math.inf:
        check_range("churn_max", churn_max, churn_min)
    check_range("noise_inflation", noise_inflation, 0.0, open_low=True)
    if schedule.alpha[0] == 0:
        raise ValueError(
            "heun works on x/alpha, and this schedule starts at alpha = 0 (pure noise): "
            "start later (karras with a finite sigma_max) or take first_order"
        )
    process, num_steps = schedule.process, schedule.num_steps
    level = schedule.sigma / schedule.alpha
    now, after = level[:-1], level[1:]
    churned = (now >= churn_min) & (now <= churn_max)
    raised = now * (1.0 + np.where(churned, min(churn / num_steps, 2**0.5 - 1), 0.0))
    injected = noise_inflation * np.sqrt(np.maximum(raised**2 - now**2, 0.0))
    # A time that churn did not move is taken as it stands: inverting its level could round it.
    times = np.where(raised > now, process.time(raised), schedule.times[:-1])
    alpha_raised = process.alpha(times)
    if not np.allclose(process.sigma(times), alpha_raised * raised, rtol=1e-6, atol=0):
        raise ValueError(
            f"churn raises the noise level to {raised.max():g}, beyond the {process.name} process: "
            f"lower churn_max, which is {churn_max}"
        )
    # A step to the clean sample is not corrected. Beside rows that are, its second call is made at
    # its own time, where the network is defined, and not used.
    second_times = np.where(after > 0, schedule.times[1:], times)
    time_now, time_after = (jnp.asarray(t, jnp.float32) for t in (times, second_times))
    scale_in, scale_out = 1.0 / schedule.alpha[:-1], schedule.alpha[1:]
    columns = [scale_in, alpha_raised, injected, after - raised, scale_out]
    tables = jnp.asarray(np.stack(columns), jnp.float32)
    corrected = jnp.asarray(after > 0)

    def step(denoise, x: Array, index: Array, noise: Array, memory: PyTree) -> StepResult:
        at_index = (per_row(row, x) for row in tables[:, index])
        unscale, alpha_raised, inject, length, alpha_after = at_index
        raised_x = unscale * x + inject * noise
        first = denoise(alpha_raised * raised_x, time_now[index])
        euler = raised_x + length * first.eps

        def correct(_: None) -> tuple[Array, Array]:
            second: Prediction = denoise(alpha_after * euler, time_after[index])
            trapezoid = raised_x + length * 0.5 * (first.eps + second.eps)
            again = per_row(corrected[index], x)
            return jnp.where(again, trapezoid, euler), jnp.where(again, second.x0, first.x0)

        moved, x0 = jax.lax.cond(
            jnp.any(corrected[index]), correct, lambda _: (euler, first.x0), None
        )
        return StepResult(alpha_after * moved, x0, memory)

    return Solver(
        name="heun",
        schedule=schedule,
        step=step,
        calls=tuple(2 if level > 0 else 1 for level in after),
        noise_scale=tuple(float(scale) for scale in injected),
        quiet=heun(schedule, churn=0.0) if injected.any() else None,
    )
