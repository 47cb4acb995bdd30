"""Which devices a search runs on, and that they do not matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.process import shifted
from jaxsearch.core.search import search
from jaxsearch.core.types import Objective, Problem
from jaxsearch.core.value import lookahead
from jaxsearch.parallel import divided, particle_mesh, replicated
from jaxsearch.searchers import SEARCHERS
from jaxsearch.solvers import first_order
from jaxsearch.zoo import scenes
from tests import cases, toys


def test_a_mesh_has_the_devices_that_were_asked_for():
    assert particle_mesh() is None  # a CPU is one device to users
    assert particle_mesh(1) is None
    assert particle_mesh(4).shape == {"particle": 4}
    for wrong, message in ((9, "devices is 9: this machine has 8"), (0, "devices is 0")):
        with pytest.raises(ValueError, match=message):
            particle_mesh(wrong)


def test_what_is_replicated_is_on_all_of_them():
    mesh = particle_mesh(4)
    tree = replicated({"weights": jnp.arange(3.0), "prompts": toys.prompts(2)}, mesh)
    for leaf in jax.tree.leaves(tree):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == 4
    assert replicated(tree, None) is tree


@pytest.mark.parametrize("searcher", ["epsilon_greedy", "halving_stops"])
def test_devices_agree_on_nothing_while_they_work(searcher):
    """Kills: one program divided among devices, whose loops and branches all of them decide on."""
    mesh, problem = particle_mesh(4), toys.problem(cases.solvers()["heun_edm"])
    one = cases.SEARCHERS[searcher].searcher
    lowered = search.lower(
        jax.random.key(0), one, problem, toys.prompts(4), mesh=mesh, microbatch=4
    )
    program = lowered.compile().as_text()
    assert "all-reduce" not in program


def test_weights_are_divided_where_devices_share_them():
    mesh = particle_mesh(8, model=4)
    assert mesh.shape == {"particle": 2, "model": 4}
    assert particle_mesh(model=2).shape == {"particle": 1, "model": 2}
    shapes = {
        "out": ((64, 128), (64, 32)),  # the longer of the last two axes
        "in": ((3, 3, 256, 128), (3, 3, 64, 128)),
        "stack": ((400, 32, 64), (400, 32, 16)),  # a layer of it stays whole
        "odd": ((126, 64), (126, 16)),
        "odder": ((127, 127), (127, 127)),
        "vector": ((8192,), (8192,)),
        "small": ((32, 64), (32, 64)),
    }
    weights = {name: jnp.ones(whole) for name, (whole, _) in shapes.items()}
    for name, leaf in divided(weights, mesh).items():
        assert {part.data.shape for part in leaf.addressable_shards} == {shapes[name][1]}, name
        assert len(leaf.sharding.device_set) == 8
    for leaf in jax.tree.leaves(divided(weights, particle_mesh(8))):
        assert leaf.sharding.is_fully_replicated
    assert divided(weights, None) is weights


@pytest.mark.parametrize(
    ("devices", "model", "message"),
    [
        (8, 3, "model_devices is 3, which does not divide the 8 devices"),
        (8, 0, "model_devices is 0"),
        (None, 16, "devices is 16: this machine has 8"),
    ],
)
def test_devices_that_cannot_share_weights(devices, model, message):
    with pytest.raises(ValueError, match=message):
        particle_mesh(devices, model=model)


def test_devices_that_share_weights_find_what_one_finds():
    """Kills: a rule that divides nothing, and an axis of weights that particles are divided by."""
    texts = scenes.prompt_set(4, seed=1)
    prompts, one = scenes.prompts(texts), SEARCHERS["epsilon_greedy"](candidates=2, iterations=1)
    denoiser = scenes.denoiser()
    problem = Problem(
        denoiser=denoiser,
        objective=Objective(decoder=scenes.decoder(), verifiers=(scenes.attributes(),)),
        solver=first_order(shifted(denoiser.process, num_steps=2)),
        value=lookahead(),
    )
    alone = search(jax.random.key(0), one, problem, prompts)
    mesh = particle_mesh(4, model=2)
    program = search.lower(
        jax.random.key(0), one, divided(problem, mesh), replicated(prompts, mesh), mesh=mesh
    ).compile()
    found = program(jax.random.key(0), divided(problem, mesh), replicated(prompts, mesh))
    np.testing.assert_allclose(found.score, alone.score, atol=1e-5)
    np.testing.assert_allclose(found.particle.x, alone.particle.x, atol=1e-3)
    np.testing.assert_array_equal(found.cost.network_passes, alone.cost.network_passes)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves((problem, prompts)))
    assert program.memory_analysis().argument_size_in_bytes < 0.6 * whole
