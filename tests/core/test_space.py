"""Renoising: the forward process from one point of a schedule to a noisier one, and its record."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import fresh, realise
from jaxsearch.core.process import edm, flow, karras, shifted, trained_steps
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Noise, NoiseSpace, Particle, Schedule
from jaxsearch.solvers import first_order
from tests import toys

SHAPE = (64,)


def schedules() -> dict[str, Schedule]:
    vp = toys.processes()["variance_preserving"]
    return {
        "edm": karras(edm(), num_steps=7),
        "variance_preserving": trained_steps(vp, num_steps=7),
        "flow": shifted(flow(), num_steps=7),  # from pure noise, alpha = 0
        "unclean": trained_steps(vp, num_steps=7, spacing="trailing", final="first"),
    }


def space_of(schedule: Schedule, renoisings: int = 1, memory=lambda shape: ()) -> NoiseSpace:
    solver = dataclasses.replace(first_order(schedule), memory=memory)
    denoiser = toys.gaussian(0.4, 0.7, SHAPE, schedule.process)
    return noise_space(toys.problem(solver, denoiser=denoiser), 2, renoisings)


def noises(seed: int, *lead: int) -> Noise:
    """[*lead, M = 2], each of two terms and of variance 1."""
    noise = fresh(jax.random.split(jax.random.key(seed), lead), 2)
    keys = noise.keys.at[..., 1].set(jax.random.split(jax.random.key(seed + 1), lead))
    return Noise(keys, jnp.broadcast_to(jnp.asarray([0.6, -0.8]), keys.shape))


def standing(space: NoiseSpace, x, steps) -> Particle:
    """Particles [n] that stand somewhere."""
    steps = jnp.asarray(steps, jnp.int32)
    root = space.root(noises(0, len(steps)))
    return root._replace(x=jnp.broadcast_to(x, root.x.shape), step=steps)


def pairs(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with j < i: from a step to one of more noise."""
    return np.tril_indices(schedule.num_steps + 1, -1)


def coefficients(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """`keep` and `add` of all `pairs`, read off renoised latents."""
    space, (i, j) = space_of(schedule), pairs(schedule)
    noise = noises(3, len(i))
    nothing = noise._replace(coefs=jnp.zeros_like(noise.coefs))
    keep = space.renoise(standing(space, jnp.float32(1.0), i), j, nothing).x
    added = space.renoise(standing(space, jnp.float32(0.0), i), j, noise).x
    drawn = realise(noise, SHAPE)
    add = jnp.sum(added * drawn, axis=1) / jnp.sum(drawn**2, axis=1)
    np.testing.assert_allclose(added, add[:, None] * drawn, rtol=2e-5, atol=1e-6)
    return np.asarray(keep[:, 0], np.float64), np.asarray(add, np.float64)


@pytest.mark.parametrize("name", schedules())
def test_it_is_the_forward_process(name):
    """Mean and variance of x_j given x_i, and of x_j given x_0.

    Kills: the steps exchanged; the variance without the part that is there already, or not scaled;
    sigma for alpha.
    """
    schedule = schedules()[name]
    alpha, sigma, (i, j) = schedule.alpha, schedule.sigma, pairs(schedule)
    keep, add = coefficients(schedule)
    np.testing.assert_allclose(keep, alpha[j] / alpha[i], rtol=1e-6)
    # In noise-to-signal ratios a renoised latent is one to which independent noise is added.
    noisy = alpha[j] > 0
    level = np.divide(sigma, alpha, out=np.full_like(sigma, np.inf), where=alpha > 0)
    expected = alpha[j][noisy] * np.sqrt(level[j][noisy] ** 2 - level[i][noisy] ** 2)
    np.testing.assert_allclose(add[noisy], expected, rtol=2e-6)
    np.testing.assert_allclose(add[~noisy], sigma[j][~noisy], rtol=2e-6)
    np.testing.assert_allclose(keep * alpha[i], alpha[j], rtol=1e-6)
    np.testing.assert_allclose(keep**2 * sigma[i] ** 2 + add**2, sigma[j] ** 2, rtol=4e-6)


@pytest.mark.parametrize("name", schedules())
def test_twice_is_once(name):
    """From i to k and on to j has the law of going from i to j at once."""
    schedule = schedules()[name]
    num = schedule.num_steps + 1
    keep, add = (np.zeros((num, num)) for _ in range(2))
    keep[pairs(schedule)], add[pairs(schedule)] = coefficients(schedule)
    for i, k, j in ((6, 4, 1), (7, 6, 5), (5, 2, 0), (7, 3, 0)):
        np.testing.assert_allclose(keep[k, j] * keep[i, k], keep[i, j], rtol=4e-6)
        twice = (keep[k, j] * add[i, k]) ** 2 + add[k, j] ** 2
        np.testing.assert_allclose(twice, add[i, j] ** 2, rtol=1e-5)


def test_to_where_it_stands_nothing_changes_and_to_less_noise_there_is_no_way():
    schedule = schedules()["flow"]
    space = space_of(schedule)
    x = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    there = space.renoise(standing(space, x, [0, 3, 7]), jnp.asarray([0, 3, 7]), noises(3, 3))
    np.testing.assert_array_equal(there.x, x)
    forth = space.renoise(standing(space, x, [0, 3, 6]), 7, noises(3, 3))
    assert np.all(np.isnan(forth.x))


def test_the_way_that_ended_is_a_leg_and_a_new_one_begins():
    """Kills: an older leg lost or out of order; its noises left in the new leg; the renoising's own
    noise, or the initial one, overwritten; a solver's memory kept."""
    schedule = schedules()["edm"]
    space = space_of(schedule, 3, memory=lambda shape: jnp.full(shape, 5.0))
    particle = space.root(noises(0, 2))
    assert particle.legs is not None
    steps = noises(5, 2, 7)
    went = []
    for turn, (end, back) in enumerate(((4, 1), (6, 3))):
        rows = jax.tree.map(
            lambda old, new, end=end: old.at[:, 1 : end + 1].set(new[:, :end]),
            particle.noise,
            steps,
        )
        went.append(rows)
        particle = particle._replace(
            noise=rows, step=jnp.full((2,), end), memory=jnp.zeros((2, *SHAPE))
        )
        particle = space.renoise(particle, back, noises(10 + turn, 2))
    np.testing.assert_array_equal(particle.step, [3, 3])
    np.testing.assert_array_equal(particle.memory, jnp.full((2, *SHAPE), 5.0))
    np.testing.assert_array_equal(particle.legs.end, [[0, 4, 6]] * 2)
    np.testing.assert_array_equal(particle.legs.back, [[0, 1, 3]] * 2)
    assert not np.any(particle.legs.noise.coefs[:, 0])
    for turn, rows in enumerate(went):
        leg = jax.tree.map(lambda leaf, turn=turn: leaf[:, turn + 1], particle.legs.noise)
        np.testing.assert_array_equal(leg.coefs[:, 1:], rows.coefs[:, 1:])
        drawn = realise(jax.tree.map(lambda leaf: leaf[:, 0], leg), SHAPE)
        np.testing.assert_array_equal(drawn, realise(noises(10 + turn, 2), SHAPE))
    first = realise(jax.tree.map(lambda leaf: leaf[:, 0], particle.noise), SHAPE)
    np.testing.assert_array_equal(first, realise(noises(0, 2), SHAPE))
    assert not np.any(particle.noise.coefs[:, 1:])


def test_a_searcher_that_does_not_say_so_cannot_renoise():
    space = space_of(schedules()["edm"], 0)
    particle = space.root(noises(0, 2))
    assert particle.legs is None
    with pytest.raises(ValueError, match="give its Searcher renoisings"):
        space.renoise(particle, 0, noises(1, 2))
