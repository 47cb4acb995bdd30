"""Gradient ascent on the noise: through verifier, decoder and sampler back to where they began."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jaxsearch.core.checks import check_count, check_range, is_traced
from jaxsearch.core.noise import fresh_trajectory, inner, realise, select, take
from jaxsearch.core.random import fold_in
from jaxsearch.core.reuse import reused
from jaxsearch.core.types import (
    Array,
    Evaluation,
    GradientOf,
    Noise,
    NoiseSpace,
    Proposal,
    PyTree,
    Searcher,
    Stage,
)

Optimizer = Literal["adam", "sgd", "momentum"]
Regulariser = Literal["norm", "moments"]
_LEARNING_RATE = 0.05  # of a named optimizer, where none is given
_BLOCK = 4  # numbers of a block whose moments are looked at, as in the authors' code
_ORDERS = 9  # orders in which a noise is cut into blocks; theirs 101, ours are new at every step


class State(NamedTuple):
    """Where the candidates of one prompt stand; `L` noises of each are searched."""

    keys: Array  # [K] of the candidates, for the plain noises that they began with
    free: Array  # [K, L, *E] how far they have gone from there
    optimizer: PyTree  # [K, ...]


@reused
def gradient(
    *,
    candidates: int = 1,
    iterations: int = 20,
    optimizer: Optimizer | optax.GradientTransformation = "adam",
    learning_rate: float | None = None,
    renormalise: bool = True,
    regularisation: float = 0.0,
    regulariser: Regulariser = "norm",
    injected: bool = False,
    clip: float | None = None,
) -> Searcher:
    """Climbs the gradient of the score with respect to the noise, through the whole sampler.

    Each candidate starts from a plain sample and goes its own way, `iterations` steps up; all
    `iterations + 1` samples are scored and the best ever seen is returned. Guides without a
    gradient are refused: JPEG sizes, ranks, and scores given by the host.

    First-order search of Ma et al. 2025 (appendix) is `optimizer="sgd"`, `learning_rate=0.01` with
    `renormalise`: `n' = n + rate * grad`, rescaled to the norm of a Gaussian. ReNO (Eyring et al.
    2024) is `regularisation` in its place: it climbs `score + regularisation * K` with
    `K(n) = (d - 1) log|n| - |n|^2 / 2`, up to a constant the log-density of the norm of a Gaussian
    of `d` numbers, so that noises stay as long as the network knows them. Direct noise optimisation
    (Tang et al. 2024, *Inference-time alignment of diffusion models with direct noise
    optimization*) is `injected`, which searches all noises of the trajectory, with the
    `regulariser` `"moments"`: the logarithm of how likely a Gaussian has a mean and a covariance so
    far from its own (`log_probability`), over all noises of a candidate together.

    A step costs as many backward passes as network passes. Every solver step is also computed again
    on its way back, so that the memory is that of one step's networks and of one latent per step;
    those passes are not charged.

    Args:
        candidates: K, independent starts, at least 1.
        iterations: steps up, 0 or more; 0 scores the plain samples.
        optimizer: by name (momentum: Nesterov's, 0.9), or from Python any transformation of optax
            that needs no more than gradients and noises. Each candidate has its own.
        learning_rate: of a named optimizer, above 0. null: 0.05.
        renormalise: whether every noise is rescaled to the norm `sqrt(d)` after each step.
        regularisation: weight of the regulariser, 0 or more.
        regulariser: `"norm"`: the norm's log-density, only without `renormalise`, which leaves it
            no effect. `"moments"`: the log-probability of mean and covariance.
        injected: whether the noises that the solver injects are searched too, and not only the
            initial one. Noises that it makes no use of are left out.
        clip: the longest gradient of one candidate, over all its noises; longer ones are shortened.
            null: none are.

    Raises:
        ValueError: if a setting is out of its range, or goes with another one that leaves it no
            effect; on a solver that injects no noise, if injected noise is to be searched.
    """
    check_count("candidates", candidates)
    check_count("iterations", iterations, 0)
    check_range("regularisation", regularisation, 0.0)
    regularised = is_traced(regularisation) or regularisation > 0
    if regulariser not in get_args(Regulariser):
        raise ValueError(f"unknown regulariser {regulariser!r}: take 'norm' or 'moments'")
    if renormalise and regularised and regulariser == "norm":
        raise ValueError(
            f"regularisation is {regularisation}, but renormalise holds the norm that it is about: "
            "turn one of them off"
        )
    if clip is not None:
        check_range("clip", clip, 0.0, open_low=True)
    transformation = _transformation(optimizer, learning_rate, clip)

    def init_fn(space: NoiseSpace, key: Array) -> State:
        keys = fold_in(key, jnp.arange(candidates))
        free = jnp.zeros((candidates, len(_searched(space, injected)), *space.shape))
        with _rules_of_optax():
            return State(keys, free, jax.vmap(transformation.init)(free))

    def recipes(space: NoiseSpace, state: State) -> Noise:
        """The trajectories [K, T + 1, M] of a state."""
        noise = jax.vmap(functools.partial(fresh_trajectory, space))(state.keys)
        rows = jnp.asarray(_searched(space, injected))
        nothing = jnp.zeros((*noise.coefs.shape[:2], *space.shape))
        return noise._replace(free=nothing.at[:, rows].set(state.free))

    def step(
        key: Array, slopes: Array, optimizer_state: PyTree, noises: Array
    ) -> tuple[Array, PyTree]:
        """Where a step leads [L, *E] from the noises of a candidate with these slopes."""
        if regularised and regulariser == "norm":
            slopes = slopes + regularisation * jax.vmap(norm_slope)(noises)
        elif regularised:
            slopes = slopes + regularisation * jax.grad(log_probability)(noises, key)
        with _rules_of_optax():
            updates, after = transformation.update(-slopes, optimizer_state, noises)  # goes down
            moved = optax.apply_updates(noises, updates)
        if renormalise:
            moved = jax.vmap(_on_sphere)(moved)
        # A step that leads out of the numbers is not taken, nor remembered.
        return select(jnp.all(jnp.isfinite(moved)), (moved, after), (noises, optimizer_state))

    def stages_fn(space: NoiseSpace) -> tuple[Stage, ...]:
        rows = jnp.asarray(_searched(space, injected))
        of: GradientOf = "all" if injected else "initial"

        def ask_fn(key: Array, round: Array, state: State) -> Proposal:
            del key, round
            noise = recipes(space, state)
            first = space.root(take(noise, (slice(None), 0)))
            return Proposal(first, take(noise, (slice(None), slice(1, None))))

        def tell_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del round, proposal
            assert evaluation.gradient is not None
            keys = fold_in(key, jnp.arange(candidates))
            begun = take(recipes(space, state), (slice(None), rows))._replace(free=None)
            plain = realise(begun, space.shape)
            slopes = evaluation.gradient[:, rows]
            moved, after = jax.vmap(step)(keys, slopes, state.optimizer, plain + state.free)
            return State(state.keys, moved - plain, after)

        def keep_fn(
            key: Array, round: Array, state: State, proposal: Proposal, evaluation: Evaluation
        ) -> State:
            del key, round, proposal, evaluation
            return state

        # Where the last step has led is only looked at.
        last = Stage(1, ask_fn, keep_fn)
        return (Stage(iterations, ask_fn, tell_fn, gradient=of), last) if iterations else (last,)

    return Searcher("gradient", init_fn, stages_fn, free=True)


@contextlib.contextmanager
def _rules_of_optax() -> Iterator[None]:
    """Lets optax mix its types and ranks, also where the rest of the program may not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def norm_slope(noise: Array) -> Array:
    """The gradient [*E] of `K(n) = (d - 1) log|n| - |n|^2 / 2`: `((d - 1) / |n|^2 - 1) n`."""
    squared = inner(noise, noise)
    return ((noise.size - 1) / jnp.where(squared > 0, squared, 1.0) - 1.0) * noise


def log_probability(noise: Array, key: Array) -> Array:
    """How likely a Gaussian's moments are as far from 0 and 1 as those of a noise, at most.

    The probability regularisation of Tang et al. 2024: for `m` blocks `z_i` of `k` numbers each
    (Wainwright 2019, *High-dimensional statistics*, theorem 6.1 for the covariance),

        P(|mean_i z_i| > M1) <= 2 exp(-m M1^2 / (2k)),
        P(|mean_i z_i z_i' - I| > M2) <= 2 exp(-m max(sqrt(1 + M2) - 1 - sqrt(k/m), 0)^2 / 2),

    with the spectral norm of a matrix. A bound above 1 says nothing and counts as 1. Here stands
    the sum of both logarithms, 0 or less, for the blocks of the noise as it is and in permutations,
    in which a Gaussian is one too: the mean over all of these orders.

    Args:
        noise: of any shape, `d` numbers; what is left of them after `d // k` blocks is not seen.
        key: of the permutations. The key is consumed.
    """
    numbers = noise.ravel()
    size = min(_BLOCK, numbers.size)
    num = numbers.size // size

    def of_order(numbers: Array) -> Array:
        blocks = numbers[: num * size].reshape((num, size))
        mean = jnp.mean(blocks, axis=0)
        excess = blocks.T @ blocks / num - jnp.eye(size)
        values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(excess))
        # The slope of an extreme eigenvalue is that of its form at the fixed eigenvector.
        extreme = vectors[:, jnp.argmax(jnp.abs(values))]
        norm = jnp.abs(extreme @ excess @ extreme)
        beyond = jnp.maximum(jnp.sqrt(1 + norm) - 1 - math.sqrt(size / num), 0)
        exponents = jnp.stack([jnp.vdot(mean, mean) / size, beyond**2])
        return jnp.sum(jnp.minimum(math.log(2) - num / 2 * exponents, 0))

    shuffled = jax.vmap(lambda key: jax.random.permutation(key, numbers))(
        jax.random.split(key, _ORDERS - 1)
    )
    return jnp.mean(jax.vmap(of_order)(jnp.concatenate([numbers[None], shuffled])))


def _on_sphere(noise: Array) -> Array:
    """The noise [*E] rescaled to the norm `sqrt(d)`."""
    squared = inner(noise, noise)
    return noise * jnp.sqrt(noise.size / jnp.where(squared > 0, squared, 1.0))


def _searched(space: NoiseSpace, injected: bool) -> tuple[int, ...]:
    """The `L` rows of a trajectory that are searched: 0, and `i + 1` for what step `i` injects."""
    if not injected:
        return (0,)
    if not any(space.active):
        raise ValueError(
            "gradient with injected searches the noise injected at each step, but this solver "
            "injects none: turn injected off, or give the solver noise (heun: churn > 0; "
            "first_order: eta > 0)"
        )
    return (0, *(step + 1 for step, active in enumerate(space.active) if active))


def _transformation(
    optimizer: Optimizer | optax.GradientTransformation,
    learning_rate: float | None,
    clip: float | None,
) -> optax.GradientTransformation:
    """What makes a step of a gradient.

    Raises:
        ValueError: if the name is unknown, or the rate has no effect or is out of its range.
    """
    if isinstance(optimizer, str):
        if optimizer not in get_args(Optimizer):
            raise ValueError(f"unknown optimizer {optimizer!r}: take 'adam', 'sgd' or 'momentum'")
        rate = _LEARNING_RATE if learning_rate is None else learning_rate
        check_range("learning_rate", rate, 0.0, math.inf, open_low=True)
        made = {
            "adam": optax.adam(rate),
            "sgd": optax.sgd(rate),
            "momentum": optax.sgd(rate, momentum=0.9, nesterov=True),
        }[optimizer]
    elif learning_rate is not None:
        raise ValueError(
            f"learning_rate is {learning_rate}, but the optimizer passed has its own: leave it out"
        )
    else:
        made = optimizer
    return made if clip is None else optax.chain(optax.clip_by_global_norm(clip), made)
