"""The driver's own promises to searchers: keys and round numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxsearch.core.noise import fresh_trajectory, repeat, take
from jaxsearch.core.search import search_in_chunks
from jaxsearch.core.types import Proposal, Searcher, Stage
from tests import cases, toys


def recorder() -> Searcher:
    """Two stages of two rounds that write down every key and round number they get."""

    def init_fn(space, key):
        return {"init": key, "keys": jnp.zeros((8, 2), jnp.uint32), "rounds": jnp.int32(0)}

    def written(state, key, count):
        keys = state["keys"].at[count].set(jax.random.key_data(key))
        return {**state, "keys": keys}

    def stages_fn(space):
        def stage(first):
            def ask_fn(key, round, state):
                rows = repeat(fresh_trajectory(space, state["init"]), 1)
                root = space.root(take(rows, (slice(None), 0)))
                # The first step's recipe carries the ask's key to tell.
                steps = take(rows, (slice(None), slice(1, None)))
                keys = steps.keys.at[0, 0, 0].set(key)
                return Proposal(root, steps._replace(keys=keys))

            def tell_fn(key, round, state, proposal, evaluation):
                count = 2 * (first + round)
                state = written(state, proposal.noise.keys[0, 0, 0], count)
                state = written(state, key, count + 1)
                return {**state, "rounds": state["rounds"] * 10 + round + 1}

            return Stage(2, ask_fn, tell_fn)

        return stage(0), stage(2)

    return Searcher("recorder", init_fn, stages_fn)


def test_every_ask_and_tell_has_its_own_key_and_rounds_count_within_a_stage():
    """Kills: keys that begin again in every stage; ask and tell with one key."""
    problem = toys.problem(cases.solvers()["ddpm"])
    *_, last = search_in_chunks(
        jax.random.key(0), recorder(), problem, toys.prompts(2), rounds_per_chunk=3
    )
    keys = np.asarray(last.searcher["keys"]).reshape(16, 2)
    inits = np.asarray(jax.random.key_data(last.searcher["init"]))
    assert len({tuple(row) for row in (*keys, *inits)}) == 18
    np.testing.assert_array_equal(last.searcher["rounds"], [1212, 1212])
