"""Noise recipes: a Gaussian vector described by PRNG keys, drawn where it is used.

The key path of a search. Everything hangs on the caller's key and the prompt's id:

    prompt key  = fold_in(key, id)
    init        = fold_in(prompt key, 0)           a searcher's own randomness before the first round
    round r     = fold_in(prompt key, r + 1)       then 0 for ask and 1 for tell
    trajectory  = `trajectory_key(init, candidate, row, draw)`

Batch, device and host are in none of these. `fold_in(k, i)` equals `split(k, n)[i]`, so one key is
only ever folded or only ever split; and a key that has been folded is never drawn from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxsearch.core.types import Array, Noise, NoiseSpace


def trajectory_key(key: Array, candidate: Array | int, row: Array | int, draw: Array | int = 0) -> Array:
    """The key of one fresh noise of one candidate trajectory.

    Searchers share this path, so that plain sampling, best-of-N and every other searcher start from
    the same noise under the same key: candidate 0 is the plain sample, the first four candidates of
    a best-of-64 are those of a best-of-4, and comparisons between searchers are paired.

    Args:
        key: the prompt's init key.
        candidate: which trajectory, from 0.
        row: 0 for the initial noise, `i + 1` for the noise of solver step `i`.
        draw: which of several draws of that noise, from 0.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, candidate), row), draw)


def fresh(keys: Array, rank: int) -> Noise:
    """Recipes [..., M] of independent standard Gaussians, one per key [...]."""
    spread = jnp.broadcast_to(keys[..., None], (*keys.shape, rank))
    coefs = jnp.zeros((*keys.shape, rank), jnp.float32).at[..., 0].set(1.0)
    return Noise(spread, coefs)


def fresh_trajectory(key: Array, candidate: Array | int, num_steps: int, rank: int) -> Noise:
    """Recipes [T + 1, M] of one candidate's plain trajectory; row 0 is the initial noise."""
    rows = jnp.arange(num_steps + 1)
    keys = jax.vmap(lambda row: trajectory_key(key, candidate, row))(rows)
    return fresh(keys, rank)


def add_term(noise: Noise, slot: Array | int, key: Array, coef: Array | float) -> Noise:
    """The recipe [M] with `coef * normal(key)` as its term number `slot`."""
    return Noise(noise.keys.at[slot].set(key), noise.coefs.at[slot].set(coef))


def draw(key: Array, shape: tuple[int, ...]) -> Array:
    """The Gaussian [*E] that a key of a recipe stands for."""
    return jax.random.normal(key, shape, jnp.float32)


def realise(noise: Noise, shape: tuple[int, ...]) -> Array:
    """Draws recipes [..., M] into arrays [..., *E], float32.

    The loop over terms ends with the last non-zero coefficient of the batch, so that a fresh noise
    costs one draw whatever the rank.
    """
    lead = noise.coefs.shape[:-1]
    expand = (...,) + (None,) * len(shape)
    normal = draw
    for _ in lead:
        normal = jax.vmap(normal, in_axes=(0, None))
    rank = noise.coefs.shape[-1]
    used = jnp.any(noise.coefs != 0, axis=tuple(range(len(lead))))
    num_terms = jnp.max(jnp.where(used, jnp.arange(1, rank + 1), 0))

    def add(term: Array, total: Array) -> Array:
        keys = jax.lax.dynamic_index_in_dim(noise.keys, term, axis=-1, keepdims=False)
        coefs = jax.lax.dynamic_index_in_dim(noise.coefs, term, axis=-1, keepdims=False)
        return total + coefs[expand] * normal(keys, shape)

    return jax.lax.fori_loop(0, num_terms, add, jnp.zeros(lead + shape, jnp.float32))


def take(tree, index: Array):
    """Entry `index` (or entries, for an array) along the first axis of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def repeat(tree, num: int):
    """Every leaf `num` times along a new first axis."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num, *leaf.shape)), tree)


def select(condition: Array, on_true, on_false):
    """`where` over two pytrees; `condition` has the leading axes of every leaf."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(one, on_true, on_false)


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
