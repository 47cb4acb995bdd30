"""Which clean latent stands for a partial sample when a verifier scores it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxsearch.core.checks import check_count
from jaxsearch.core.noise import select
from jaxsearch.core.types import Array, Particle, Solver, Value


@functools.cache
def solver_estimate() -> Value:
    """The clean estimate that the solver's step made on its way: no further pass.

    For `heun` the second evaluation, as in the published code of Ramesh & Mardani 2025. For
    `first_order` and `flow_sde` the estimate is older than the noise that the step injects:
    searchers that compare noises of one step refuse it.
    """

    def estimate(denoise, solver: Solver, particle: Particle) -> tuple[Particle, Array]:
        del denoise, solver
        return particle, jnp.zeros_like(particle.step)

    return Value("solver_estimate", estimate)


@functools.cache
def lookahead() -> Value:
    """One more denoiser call at the state the step led to, `E[x0 | x_{t-1}]`.

    The score as Ramesh & Mardani 2025 define it (appendix B).
    """

    def estimate(denoise, solver: Solver, particle: Particle) -> tuple[Particle, Array]:
        times = jnp.asarray(solver.schedule.times, jnp.float32)
        unfinished = particle.step < solver.num_steps
        # A finished row beside unfinished ones goes along at the last time before the clean end.
        step = jnp.minimum(particle.step, solver.num_steps - 1)
        latents = jax.lax.cond(
            jnp.any(unfinished),
            lambda: select(unfinished, denoise(particle.x, times[step]).x0, particle.x),
            lambda: particle.x,
        )
        return particle._replace(x0=latents), unfinished.astype(jnp.int32)

    return Value("lookahead", estimate, lambda solver: 1)


@functools.cache
def rollout(*, steps: int | None = None) -> Value:
    """The sampler played on without noise, to its end or for some steps.

    Args:
        steps: solver steps to go on; null: to the finished sample. After fewer, the solver's own
            clean estimate is what is scored.

    Raises:
        ValueError: if `steps` is no whole number from 1.
    """
    if steps is not None:
        check_count("steps", steps)

    def estimate(denoise, solver: Solver, particle: Particle) -> tuple[Particle, Array]:
        quiet, end = solver.quiet or solver, solver.num_steps
        calls = jnp.asarray(quiet.calls, jnp.int32)
        silence = jnp.zeros_like(particle.x)

        def body(_: Array, carry: tuple[Particle, Array]) -> tuple[Particle, Array]:
            one, spent = carry
            index = jnp.minimum(one.step, end - 1)
            moved = quiet.step(denoise, one.x, index, silence, one.memory)
            step = one.step + 1
            x0 = select(step == end, moved.x, moved.x0)
            after = Particle(moved.x, x0, step, one.noise, moved.memory), spent + calls[index]
            return select(one.step < end, after, carry)

        left = end - jnp.min(particle.step)
        turns = left if steps is None else jnp.minimum(left, steps)
        start = (particle, jnp.zeros_like(particle.step))
        played, spent = jax.lax.fori_loop(0, turns, body, start)
        return played, spent

    def most_calls(solver: Solver) -> int:
        calls = (solver.quiet or solver).calls
        return sum(calls if steps is None else calls[:steps])

    return Value("rollout", estimate, most_calls)


VALUES = {
    "lookahead": lookahead,
    "rollout": rollout,
    "solver_estimate": solver_estimate,
}
"""Values by name: `(*, settings) -> Value`."""
