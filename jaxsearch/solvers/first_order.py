"""One first-order step for DDPM, DDIM, ancestral Euler, EDM's Euler and flow matching."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.checks import check_range
from jaxsearch.core.prediction import per_row
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import Array, PyTree, Schedule, Solver, StepResult


@reused
def first_order(schedule: Schedule, *, eta: float = 1.0) -> Solver:
    """Moves a latent to the next point along the predicted noise, part of it replaced by fresh.

        x' = alpha'*x0 + sqrt(sigma'^2 - up^2)*eps + up*noise
        up = eta * (sigma'/sigma) * sqrt(sigma^2 - (alpha/alpha')^2 * sigma'^2)

    (Song et al. 2021, *Denoising diffusion implicit models*, equations 12 and 16, for any `alpha`
    and `sigma`.) On a variance-preserving process `eta = 0` is DDIM and `eta = 1` is DDPM; in its
    noise-to-signal ratio the latter is ancestral Euler. On EDM's process `eta = 0` is its Euler
    step. On a flow `eta = 0` is the Euler step of the velocity and `eta > 0` a stochastic sampler
    with the same marginals.

    Args:
        schedule: the points to visit.
        eta: how much of the noise is replaced at each step, 0 (none) to 1 (as in the forward
            process).

    Raises:
        ValueError: if `eta` is outside [0, 1].
    """
    check_range("eta", eta, 0.0, 1.0)
    alpha, sigma = schedule.alpha, schedule.sigma
    kept = (alpha[:-1] / alpha[1:]) ** 2 * sigma[1:] ** 2
    up = eta * sigma[1:] / sigma[:-1] * np.sqrt(np.maximum(sigma[:-1] ** 2 - kept, 0.0))
    return replacing("first_order", schedule, up)


def replacing(name: str, schedule: Schedule, up: np.ndarray) -> Solver:
    """The solver that takes these steps.

    Args:
        name: what it is called.
        schedule: the points to visit.
        up: [T] by what fresh noise is multiplied, at most the noise at the point that follows.
    """
    alpha, sigma = schedule.alpha, schedule.sigma
    down = np.sqrt(np.maximum(sigma[1:] ** 2 - up**2, 0.0))
    times = jnp.asarray(schedule.times, jnp.float32)
    tables = jnp.asarray(np.stack([alpha[1:], down, up]), jnp.float32)

    def step(denoise, x: Array, index: Array, noise: Array, memory: PyTree) -> StepResult:
        prediction = denoise(x, times[index])
        scale, along, fresh = (per_row(row, x) for row in tables[:, index])
        x = scale * prediction.x0 + along * prediction.eps + fresh * noise
        return StepResult(x, prediction.x0, memory)

    return Solver(
        name=name,
        schedule=schedule,
        step=step,
        calls=(1,) * schedule.num_steps,
        noise_scale=tuple(float(u) for u in up),
        quiet=first_order(schedule, eta=0.0) if up.any() else None,
        late_noise=True,
    )
