"""Bytes alive at once, against programs whose answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxsearch.core.liveness import peak_bytes
from jaxsearch.core.plan import Memory, fitting

X = jax.ShapeDtypeStruct((10, 10), jnp.float32)
ONE = 400


def chain(x):
    return jnp.sin(jnp.exp(jnp.cos(x)))


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (jnp.exp, 1),
        (chain, 1),  # each writes over the one before
        (lambda x: x @ x, 1),
        (lambda x: (x @ x) @ x, 2),  # a product cannot
        (lambda x: ((x @ x) @ x) @ x, 2),
        (lambda x: (jnp.exp(x), jnp.exp(x) + 1.0), 2),
        (lambda x: jnp.exp(x) @ jnp.cos(x), 3),
        (lambda x: jnp.exp(x) + jnp.exp(x).T @ x, 3),
        (jax.jit(lambda x: (x @ x) @ x), 2),
        (lambda x: jax.lax.fori_loop(0, 9, lambda i, c: ((c @ x) @ x) @ x, x), 2),
        (lambda x: jax.lax.cond(x[0, 0] > 0, lambda: (x @ x) @ x, lambda: x), 2),
        (lambda x: jnp.concatenate([x, x]), 2),
        (lambda x: jax.grad(lambda x: jnp.sum(jnp.sin(jnp.exp(x) @ x)))(x), 4),
    ],
)
def test_arrays_alive(function, arrays):
    """Kills: values that are never let go; loops that count as often as they turn."""
    found = peak_bytes(function, X) / ONE
    assert arrays <= found < arrays + 0.1


def test_twice_the_rows_are_twice_the_bytes():
    def network(x):
        return jnp.tanh(x @ jnp.ones((10, 50))) @ jnp.ones((50, 10))

    one, two = (peak_bytes(network, jax.ShapeDtypeStruct((n, 10), jnp.float32)) for n in (64, 128))
    assert one >= 64 * 50 * 4
    assert two - one == pytest.approx(64 * 50 * 4 + 64 * 10 * 4, rel=0.2)


def test_as_many_as_fit_and_no_more():
    """Kills: weights that are divided among devices; a number that is no multiple of them."""
    needed = Memory(weights=100, state=50, proposals=50, images=1000, activations=9000)
    # 100 bytes a particle with all of 100, half as much again for the compiler.
    assert fitting(needed, 100, 100_000) is None
    assert fitting(needed, 100, 10_000) == 32  # (8000 - 200) / 150 = 52
    assert fitting(needed, 100, 10_000, devices=2) is None
    thrice = needed._replace(images=3000, activations=27_000)
    assert fitting(thrice, 300, 10_000, devices=2) == 64  # 52 each
    assert fitting(needed, 100, 1_000, devices=8) == 32  # 4 each
    assert fitting(needed, 100, 10, devices=8) == 8  # try one on each
