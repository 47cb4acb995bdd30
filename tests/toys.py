"""Models so small that everything about them is known: exact denoisers, a decoder and verifiers.

The denoisers are `E[x0 | x]` and `E[eps | x]` in closed form for every process, so any deviation of
a sample from its law is the solver's. Builders are cached: the same arguments give the same
functions, so that programs compiled for one test serve the next.
"""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.prediction import per_row
from jaxsearch.core.process import (
    edm,
    flow,
    trained_steps,
    trigonometric,
    variance_preserving,
)
from jaxsearch.core.types import (
    Array,
    Decoder,
    Denoiser,
    Objective,
    Particle,
    Prediction,
    Problem,
    Process,
    Prompts,
    Solver,
    Value,
    Verifier,
)
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.solvers import first_order

SHAPE = (4, 4, 1)


def processes() -> dict[str, Process]:
    """One process of each kind, by name; the variance-preserving one is Ho et al. 2020's."""
    vp = variance_preserving(beta_start=1e-4, beta_end=0.02, shape="linear")
    return {process.name: process for process in (edm(), vp, flow(), trigonometric())}


# --------------------------------------------------------------------------------------- denoisers


@functools.cache
def _log_ratio_table(process: Process) -> np.ndarray:
    """`log(sigma/alpha)` at the integer times of a discrete process, float64."""
    last = int(process.time(np.asarray(np.inf)))
    index = np.arange(last + 1, dtype=np.float64)
    return np.log(process.sigma(index) / process.alpha(index))


def coefficients(process: Process, t: Array) -> tuple[Array, Array]:
    """`alpha(t)` and `sigma(t)` [n] of a traced time, in its dtype."""
    if process.name == "edm":
        return jnp.ones_like(t), t
    if process.name == "flow":
        return 1 - t, t
    if process.name == "trigonometric":
        return jnp.sin(np.pi / 2 * (1 - t)), jnp.sin(np.pi / 2 * t)
    table = jnp.asarray(_log_ratio_table(process), t.dtype)
    ratio = jnp.exp(jnp.interp(t, jnp.arange(len(table), dtype=t.dtype), table))
    alpha = jax.lax.rsqrt(1 + ratio**2)
    return alpha, ratio * alpha


@functools.cache
def _gaussian_apply(process: Process):
    def apply(params, x: Array, t: Array, cond) -> Prediction:
        mean, std = (jnp.asarray(params[name], x.dtype) for name in ("mean", "std"))
        mean, std = (v if v.ndim == 0 else v[None] for v in (mean, std))
        alpha, sigma = (per_row(c, x) for c in coefficients(process, t))
        total = alpha**2 * std**2 + sigma**2
        x0 = (alpha * std**2 * x + sigma**2 * mean) / total
        return Prediction(x0, sigma * (x - alpha * mean) / total)

    return apply


def gaussian(mean, std, shape: tuple[int, ...], process: Process) -> Denoiser:
    """The denoiser of `x0 ~ N(mean, diag(std^2))`; its condition is not read.

    Args:
        mean: a number or an array [*E].
        std: a number or an array [*E], positive.
        shape: `*E`.
        process: any.
    """
    params = {"mean": np.asarray(mean, np.float32), "std": np.asarray(std, np.float32)}
    return Denoiser(apply=_gaussian_apply(process), process=process, shape=shape, params=params)


@functools.cache
def _mixture_apply(process: Process):
    def apply(params, x: Array, t: Array, cond: Array) -> Prediction:
        variance = jnp.asarray(params["std"], x.dtype) ** 2
        alpha, sigma = (per_row(c, x) for c in coefficients(process, t))
        separation = per_row(cond.astype(x.dtype), x)
        total = alpha**2 * variance + sigma**2
        along = jnp.sum(x, axis=tuple(range(1, x.ndim)), keepdims=True)
        # P(+m | x) - P(-m | x) of the two modes.
        mode = separation * jnp.tanh(alpha * separation * along / total)
        x0 = (alpha * variance * x + sigma**2 * mode) / total
        return Prediction(x0, sigma * (x - alpha * mode) / total)

    return apply


def mixture_denoiser(
    process: Process, shape: tuple[int, ...] = SHAPE, *, std: float = 0.3
) -> Denoiser:
    """The denoiser of `x0 ~ 0.5 N(m*1, std^2) + 0.5 N(-m*1, std^2)`; its condition is `m` [n]."""
    params = {"std": np.float32(std)}
    return Denoiser(apply=_mixture_apply(process), process=process, shape=shape, params=params)


mixture = mixture_denoiser


class Counter:
    """Counts the rows that a `counting` denoiser was called with, and how often it was traced."""

    def __init__(self) -> None:
        self.traces = 0
        self._rows = 0
        self._lock = threading.Lock()

    def add(self, t: np.ndarray) -> None:
        """One call on `len(t)` rows."""
        with self._lock:
            self._rows += t.shape[0]

    @property
    def rows(self) -> int:
        """Rows seen so far; waits for work under way."""
        jax.effects_barrier()
        return self._rows


def counting(denoiser: Denoiser) -> tuple[Denoiser, Counter]:
    """The same denoiser and what counts its rows, padding included, as they are computed.

    Every call of this makes a new function, so programs are compiled anew for it.
    """
    counter = Counter()

    def apply(params, x: Array, t: Array, cond) -> Prediction:
        counter.traces += 1
        jax.debug.callback(counter.add, t)
        return denoiser.apply(params, x, t, cond)

    counted = Denoiser(
        apply=apply,
        process=denoiser.process,
        shape=denoiser.shape,
        passes=denoiser.passes,
        params=denoiser.params,
    )
    return counted, counter


# --------------------------------------------------------------------------- decoder and verifiers


def _sigmoid(params, latents: Array) -> Array:
    return jax.nn.sigmoid(latents)


def decoder() -> Decoder:
    """Latents [n,4,4,1] to grey images [n,4,4,1] in [0, 1], by a sigmoid."""
    return Decoder(apply=_sigmoid)


def _identity(params, latents: Array) -> Array:
    return latents


def _mean_pixel(params, images: Array, context: dict[str, Array]) -> Array:
    return jnp.mean(images, axis=(1, 2, 3))


def _closeness(params, images: Array, context: dict[str, Array]) -> Array:
    return -jnp.abs(jnp.mean(images, axis=(1, 2, 3)) - context["target"])


bright = Verifier(name="bright", apply=_mean_pixel)
"""The mean pixel: smooth, monotone in every latent."""

near_target = Verifier(name="near_target", apply=_closeness, needs=("target",))
"""Minus the distance of the mean pixel from `context["target"]`: reads the prompt's context."""


def _judge(params, images, context):
    score = jnp.where(params["aims"] > 0.5, near_target(images, context), bright(images, {}))
    return jnp.where(images[:, 0, 0, 0] <= params["fraction"], params["value"], score)


def judge(*, aims: bool = False, fraction: float = -1.0, value: float = 0.0) -> Verifier:
    """What all laws are judged by: its kinds are weights, so that one program serves them all.

    Args:
        aims: whether `near_target` is its score, and not `bright`.
        fraction: of all images, about, that get `value` instead; none below 0, all from 1.
        value: a bad one.
    """
    params = {"aims": jnp.float32(aims)}
    params |= {"fraction": jnp.float32(fraction), "value": jnp.float32(value)}
    return Verifier(name="judge", apply=_judge, params=params)


# ------------------------------------------------------------------------------------------ problem


def prompts(num: int, *, first_id: int = 0) -> Prompts:
    """Prompts with ids from `first_id`; separation and target depend on the id alone."""
    ids = first_id + np.arange(num)
    separation = 0.4 + 0.1 * (ids % 5)
    target = 0.3 + 0.1 * (ids % 4)
    return Prompts(
        ids=jnp.asarray(ids, jnp.int32),
        cond=jnp.asarray(separation, jnp.float32),
        context={"target": jnp.asarray(target, jnp.float32)},
    )


def value_of(solver: Solver) -> Value:
    """One that has seen the noise it judges, as the command chooses it."""
    return lookahead() if solver.late_noise else solver_estimate()


def problem(
    solver: Solver,
    *,
    verifiers: tuple[Verifier, ...] = (bright,),
    value: Value | None = None,
    denoiser: Denoiser | None = None,
) -> Problem:
    """The mixture on the solver's process, decoded by the sigmoid."""
    return Problem(
        denoiser=denoiser or mixture_denoiser(solver.schedule.process),
        objective=Objective(decoder=decoder(), verifiers=verifiers),
        solver=solver,
        value=value or value_of(solver),
    )


# --------------------------------------------------------------------- a linear-Gaussian sampler

LINEAR_SHAPE = (2, 1, 1)


@functools.cache
def linear_solver() -> Solver:
    """Four steps that all take noise, the last one too, so that searches have a single stage."""
    process = processes()["variance_preserving"]
    schedule = trained_steps(process, num_steps=4, spacing="trailing", final="first")
    return first_order(schedule)


class Affine(NamedTuple):
    """A linear-Gaussian sampler, `x' = a*x + b + c*noise` per pixel; all [T] float64."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    slope: np.ndarray  # of the lookahead estimate of the child, in the child
    prior: float  # standard deviation of the initial latent

    @property
    def final(self) -> tuple[float, float]:
        """Mean and variance of the mean pixel of a plain sample."""
        mean, variance = 0.0, self.prior**2
        for a, b, c in zip(self.a, self.b, self.c, strict=True):
            mean, variance = a * mean + b, a * a * variance + c * c
        return mean, variance / np.prod(LINEAR_SHAPE)


def linear_problem(solver: Solver, *, value: Value | None = None) -> Problem:
    """Gaussian data, latents that are the images, and their mean pixel as the reward.

    The mean is not 0, so that a wrong sign shows.
    """
    return Problem(
        denoiser=gaussian(0.4, 0.7, LINEAR_SHAPE, solver.schedule.process),
        objective=Objective(decoder=Decoder(apply=_identity), verifiers=(bright,)),
        solver=solver,
        value=value or value_of(solver),
    )


def affine(solver: Solver) -> Affine:
    """The coefficients of `linear_problem` on a solver, read off its steps."""
    denoiser = linear_problem(solver).denoiser
    num_steps = solver.num_steps

    def denoise(x: Array, t: Array) -> Prediction:
        return denoiser(x, t, None)

    def at(x: float, noise: float) -> np.ndarray:
        shape = (num_steps, *LINEAR_SHAPE)
        index = jnp.arange(num_steps)
        moved = solver.step(denoise, jnp.full(shape, x), index, jnp.full(shape, noise), ()).x
        return np.asarray(moved[:, 0, 0, 0], np.float64)

    def estimate(x: float) -> np.ndarray:
        ends = jnp.arange(1, num_steps + 1)
        child = Particle(jnp.full((num_steps, *LINEAR_SHAPE), x), (), ends, ())
        stands, _ = lookahead().estimate(denoise, solver, child)
        return np.asarray(stands.x0[:, 0, 0, 0])

    base = at(0.0, 0.0)
    prior = solver.schedule.process.prior_scale(solver.schedule.times[0])
    slope = (estimate(1.0) - estimate(0.0)).astype(np.float64)
    return Affine(at(1.0, 0.0) - base, base, at(0.0, 1.0) - base, slope, float(prior))
