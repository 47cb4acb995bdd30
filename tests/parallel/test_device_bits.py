"""The same bits on any number of devices, where each runs as many particles at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from jaxsearch.core.noise import inner, length
from jaxsearch.core.process import karras
from jaxsearch.core.search import search
from jaxsearch.core.types import Objective, Problem, Prompts
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import epsilon_greedy
from jaxsearch.solvers import heun
from jaxsearch.zoo import digits
from tests.conftest import as_users_compile

NUM_PROMPTS, OWN = 16, 4  # particles that a device runs at once


@as_users_compile
def test_devices_find_the_same_bits():
    """Kills: a compiler's sum over a latent; one microbatch run by another program than several.

    With 8 devices each has two microbatches, alone it has 16. A round of fewer particles, here of
    the plain ones, has devices run less at once; two still round as four do.
    """
    denoiser = digits.denoiser()
    labels = jnp.arange(NUM_PROMPTS, dtype=jnp.int32) % 10
    prompts = Prompts(
        jnp.arange(NUM_PROMPTS), jnp.full_like(labels, digits.NO_LABEL), {"label": labels}
    )
    problem = Problem(
        denoiser=denoiser,
        objective=Objective(decoder=digits.decoder(), verifiers=(digits.classifier(),)),
        solver=heun(karras(denoiser.process, num_steps=4)),
        value=solver_estimate(),
    )
    searcher = epsilon_greedy(candidates=4, iterations=3)

    def found(num):
        devices = jax.devices()[:num]
        mesh = jax.make_mesh((num,), ("particle",), axis_types=(AxisType.Auto,), devices=devices)
        result = search(
            jax.random.key(0), searcher, problem, prompts,
            mesh=mesh if num > 1 else None, microbatch=OWN * num,
        )  # fmt: skip
        noise = result.particle.noise
        return jax.device_get((result.particle.x, result.score, noise.coefs, result.trace.best))

    alone = found(1)
    for num in (2, 8):
        for one, other in zip(alone, found(num), strict=True):
            np.testing.assert_array_equal(one, other)


def test_sums_by_halves_are_sums():
    for shape in ((1,), (3,), (8, 8, 1), (5, 7, 3)):
        one, two = jax.random.normal(jax.random.key(sum(shape)), (2, *shape))
        exact = np.sum(np.asarray(one, np.float64) * np.asarray(two, np.float64))
        np.testing.assert_allclose(inner(one, two), exact, rtol=1e-5, atol=1e-6)
        far = np.linalg.norm(np.asarray(one, np.float64).ravel())
        np.testing.assert_allclose(length(one), far, rtol=1e-6)
    assert inner(jnp.zeros((0,)), jnp.zeros((0,))) == 0
