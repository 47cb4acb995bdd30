"""Which devices a search runs on, and that they do not matter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxsearch.core.search import search
from jaxsearch.parallel import particle_mesh, replicated
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
