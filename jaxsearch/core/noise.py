"""Noise recipes: a Gaussian vector described by PRNG keys, drawn where it is used.

The key path of a search. Everything hangs on the caller's key and the prompt's id:

    prompt      = fold_in(key, id)
    init        = fold_in(prompt, 0)         a searcher's own, for what it draws beforehand
    round r     = fold_in(prompt, 2r + 1)    for its ask
                  fold_in(prompt, 2r + 2)    for its tell
    candidate   = fold_in(init, number)      one trajectory of noises
    noise       = `noise_key(candidate, row, draw)`

Batch, device and host are in none of these. `fold_in(k, i)` equals `split(k, n)[i]`, so one key is
only ever folded or only ever split; and a key that has been folded is never drawn from.

Searchers share the path of candidates, so that plain sampling, best-of-N and every other searcher
start from the same noise under the same key: candidate 0 is the plain sample, the first four
candidates of a best-of-64 are those of a best-of-4, and comparisons of searchers are paired.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxsearch.core.random import fold_in, normal, stored
from jaxsearch.core.types import Array, Noise, NoiseSpace, Particle, Prompts, PyTree


def prompt_keys(key: Array, prompts: Prompts) -> Array:
    """The keys [P] of prompts, from the key of a search."""
    return fold_in(key, prompts.ids)


def noise_key(
    space: NoiseSpace, candidate: Array, row: Array | int, draw: Array | int = 0
) -> Array:
    """The key of one fresh noise of one candidate.

    Args:
        space: the search's.
        candidate: the candidate's key.
        row: 0 for the initial noise, `i + 1` for the noise of solver step `i`.
        draw: which of several draws of that noise, from 0.
    """
    return fold_in(candidate, draw * (space.num_steps + 1) + row)


def fresh(keys: Array, rank: int) -> Noise:
    """Recipes [..., M] of independent standard Gaussians, one per key [...]."""
    spread = jnp.broadcast_to(keys[..., None], (*keys.shape, rank))
    first = jnp.arange(rank) == 0
    return Noise(spread, jnp.broadcast_to(first.astype(jnp.float32), spread.shape))


def fresh_trajectory(space: NoiseSpace, candidate: Array) -> Noise:
    """The recipes [T + 1, M] of a candidate's plain trajectory; row 0 is the initial noise.

    Noise of a step that does not use any gets the coefficient 0, so that it is not even drawn.
    """
    rows = jnp.arange(space.num_steps + 1)
    noise = fresh(jax.vmap(lambda row: noise_key(space, candidate, row))(rows), space.rank)
    used = jnp.asarray((1.0, *space.active), jnp.float32)
    return noise._replace(coefs=noise.coefs * used[:, None])


def first_candidates(space: NoiseSpace, key: Array, num: int) -> tuple[Array, Particle]:
    """The keys [K] of a prompt's first candidates and their particles [K, ...] at step 0."""
    keys = fold_in(key, jnp.arange(num))
    first = jax.vmap(lambda candidate: take(fresh_trajectory(space, candidate), 0))(keys)
    return keys, space.root(first)


def fresh_branches(
    space: NoiseSpace,
    candidates: Array,
    begin: Array | int,
    num_steps: int,
    num_draws: int = 1,
    first_draw: Array | int = 0,
) -> Noise:
    """The recipes [num_draws * K, S, M] of several draws of the same steps for each candidate.

    The `n`-th draw of candidate `k` is row `n*K + k`: the first `K` rows are the candidates' plain
    trajectories. As there, noise of a step that does not use any gets the coefficient 0.

    Args:
        space: the search's.
        candidates: [K] keys.
        begin: the first solver step.
        num_steps: S, how many.
        num_draws: how many noises each candidate gets for them.
        first_draw: the number of the first; 0 is the candidates' plain trajectories.
    """
    steps = begin + jnp.arange(num_steps)

    def one(candidate: Array, number: Array, step: Array) -> Array:
        return noise_key(space, candidate, step + 1, number)

    over_steps = jax.vmap(one, in_axes=(None, None, 0))
    over_candidates = jax.vmap(over_steps, in_axes=(0, None, None))
    over_draws = jax.vmap(over_candidates, in_axes=(None, 0, None))
    keys = over_draws(candidates, first_draw + jnp.arange(num_draws), steps)
    noise = fresh(keys.reshape((num_draws * candidates.shape[0], num_steps)), space.rank)
    used = jnp.asarray(space.active, jnp.float32)[steps]
    return noise._replace(coefs=noise.coefs * used[None, :, None])


def add_term(noise: Noise, slot: Array | int, key: Array, coef: Array | float) -> Noise:
    """The recipe [M] with `coef * normal(key)` as its term number `slot`."""
    here = jnp.arange(noise.coefs.shape[-1]) == slot
    keys, coefs = jnp.where(here, key, noise.keys), jnp.where(here, coef, noise.coefs)
    return Noise(keys, coefs, noise.free)


def rotate(noise: Noise, slot: Array | int, key: Array, amount: Array | float) -> Noise:
    """The recipe [M] of `sqrt(1 - amount^2)*noise + amount*normal(key)`, the new term at `slot`.

    A standard Gaussian again where the noise is one; `amount`, in [0, 1], may be traced.
    """
    scaled = noise._replace(coefs=noise.coefs * jnp.sqrt(1.0 - amount**2))
    return add_term(scaled, slot, key, amount)


def draw(keys: Array, shape: tuple[int, ...]) -> Array:
    """The Gaussians [..., *E] that keys [...] of a recipe stand for."""
    return stored(normal(keys, math.prod(shape))).reshape(keys.shape + shape)


def realise(noise: Noise, shape: tuple[int, ...]) -> Array:
    """Makes recipes [..., M] into arrays [..., *E], float32: the free part first, then the terms.

    The loop over terms ends with the last non-zero coefficient of the batch, so that a fresh noise
    costs one draw whatever the rank.
    """
    lead = noise.coefs.shape[:-1]
    size = math.prod(shape)
    rank = noise.coefs.shape[-1]
    used = jnp.any(noise.coefs != 0, axis=tuple(range(len(lead))))
    num_terms = jnp.max(jnp.where(used, jnp.arange(1, rank + 1), 0))

    def add(term: Array, total: Array) -> Array:
        keys = jax.lax.dynamic_index_in_dim(noise.keys, term, axis=-1, keepdims=False)
        coefs = jax.lax.dynamic_index_in_dim(noise.coefs, term, axis=-1, keepdims=False)
        return total + coefs[..., None] * normal(keys, size)

    free = jnp.zeros((*lead, size), jnp.float32)
    if noise.free is not None:
        free = noise.free.reshape((*lead, size))
    return jax.lax.fori_loop(0, num_terms, add, free).reshape(lead + shape)


def inner(one: Array, two: Array) -> Array:
    """The inner product of two arrays [*E], float32; of many of them under `vmap`.

    Summed half by half, in an order of its own. That of a compiler's sum hangs on how many of them
    there are on a device, and the last bit of a recipe's coefficient would with it.
    """
    terms = (one * two).ravel()
    size = 1 << max(terms.size - 1, 0).bit_length()
    terms = jnp.pad(terms, (0, size - terms.size))
    while size > 1:
        size //= 2
        terms = terms[:size] + terms[size:]
    return terms[0]


def length(x: Array) -> Array:
    """The Euclidean length of an array [*E], of the same bits on every device; see `inner`."""
    return jnp.sqrt(inner(x, x))


def take(tree: PyTree, index: Any) -> PyTree:
    """Every leaf at `index`: a number, a slice, an array or a tuple of them."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def repeat(tree: PyTree, num: int) -> PyTree:
    """Every leaf `num` times along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), tree)


def select(condition: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """`where` over two pytrees; `condition` has the leading axes of every leaf."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(
            condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b
        )

    return jax.tree.map(one, on_true, on_false)


def without_lineage(particle: Particle) -> Particle:
    """The particle with nothing in the place of its noises."""
    return particle._replace(noise=(), legs=None)  # type: ignore[arg-type]


def require_sight(space: NoiseSpace, searcher: str, num_steps: int = 1) -> None:
    """Refuses a problem in which candidates for the noise of one segment could only tie.

    Args:
        space: the search's.
        searcher: its name.
        num_steps: of a segment; in one of several steps the noise of the earlier ones is seen.

    Raises:
        ValueError: if what is scored after a step is older than the noise that the step injects.
    """
    if space.blind and num_steps == 1:
        raise ValueError(
            f"{searcher} compares noises of one step by a clean estimate that this solver makes "
            "before it injects them, so all would score the same: take the value lookahead or "
            "rollout, or set every to 2 steps or more"
        )


def require_noise(space: NoiseSpace, searcher: str) -> None:
    """Refuses a solver that never uses the noise a step-level searcher would search.

    Raises:
        ValueError: if no step of the solver injects noise.
    """
    if not any(space.active):
        raise ValueError(
            f"{searcher} searches the noise injected at each step, but this solver injects none: "
            "give the solver noise (heun: churn > 0; first_order: eta > 0) or search the initial "
            "noise with best_of_n or zero_order"
        )
