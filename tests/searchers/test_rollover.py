"""Rollover budget forcing: what is taken, when a step ends, and where the rest of a quota goes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.budget import largest
from jaxsearch.core.noise import noise_key, take
from jaxsearch.core.plan import most_network_passes, plan
from jaxsearch.core.process import edm, karras
from jaxsearch.core.search import search
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation
from jaxsearch.searchers import rollover
from jaxsearch.solvers import heun
from tests import cases, toys


def played(problem, searcher, scores):
    """What a search asks for under scores given beforehand: (step, draw, steps) of each round."""
    space = noise_space(problem, 1)
    (stage,) = stages_of(searcher, problem)
    state = searcher.init(space, jax.random.key(0))
    candidate, asked = state.keys[0], []
    draws = {
        tuple(np.asarray(jax.random.key_data(noise_key(space, candidate, step + 1, draw)))): draw
        for step in range(space.num_steps)
        for draw in range(stage.rounds)
    }
    for round, score in enumerate(scores):
        proposal = stage.ask(jax.random.key(1), round, state)
        key = tuple(np.asarray(jax.random.key_data(proposal.noise.keys[0, 0, 0])))
        step, steps = int(proposal.parent.step[0]), int(proposal.steps[0])
        asked.append((step, draws[key], steps) if steps else None)
        child = proposal.parent._replace(
            step=proposal.parent.step + proposal.steps, x=proposal.parent.x + float(score)
        )
        evaluation = Evaluation(child, jnp.float32([score]), jnp.float32([[score]]))
        state = stage.tell(jax.random.key(2), round, state, proposal, evaluation)
    return asked, state


def test_a_better_child_ends_a_step_and_the_rest_of_its_quota_moves_on():
    """Six steps of a flow, of which five take noise; Q = 3.

    Kills: a quota that is lost or doubled; the last child instead of the best; a child compared
    with its siblings instead of its parent; the first step ending on its first child.
    """
    problem = toys.problem(cases.solvers()["flow_sde"])
    scores = [
        *(5.0, 7.0, 6.0),  # step 0: all of its quota, and 7 is taken
        8.0,  # step 1: better than 7, so 2 of its 3 move on
        *(1.0, 4.0, 3.0, 2.0, 0.0),  # step 2: none beats 8, so all 5; 4 is taken
        *(4.0, 5.0),  # step 3: an equal one does not end it; 1 moves on
        *(5.0, 5.0, 5.0, 5.0),  # step 4: 3 + 1
        1.0,  # step 5 takes no noise: passed
    ]
    asked, state = played(problem, rollover(quota=3), [*scores, 9.0])
    expected = [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 1)]
    expected += [(2, draw, 1) for draw in range(5)] + [(3, 0, 1), (3, 1, 1)]
    expected += [(4, draw, 1) for draw in range(4)] + [(5, 0, 1), None]
    assert asked == expected
    assert int(state.particle.step) == 6
    moved = float((state.particle.x - played(problem, rollover(), [])[1].particle.x).mean())
    np.testing.assert_allclose(moved, 7 + 8 + 4 + 5 + 5 + 1, rtol=1e-5)


def test_steps_without_noise_are_passed_whatever_they_score():
    """EDM's 18 steps by `every=5`: 2 passed, segments from step 2, 7 and 12, and 1 passed.

    Kills: a passage that uses up a quota, or whose score is what the first choice has to beat.
    """
    problem = toys.problem(heun(karras(edm(), num_steps=18)))
    one = rollover(quota=2, every=5)
    asked, _ = played(problem, one, [-9.0, 1.0, 0.0, 2.0, 3.0, 0.0, 0.0])
    assert asked == [
        *((0, 0, 2), (2, 0, 5), (2, 1, 5), (7, 0, 5), (12, 0, 5)),
        *((17, 0, 1), None),  # with tries left over
    ]


def test_it_never_spends_more_and_often_less():
    """Where no child beats its parent, as at equal scores, all is spent that can be.

    Kills: a bound without what rolls over, or in which all of it goes to one segment; a finished
    prompt that goes on costing.
    """
    problem = toys.problem(heun(karras(edm(), num_steps=18)))
    one, prompts = rollover(quota=4), toys.prompts(16)
    most = most_network_passes(one, problem)
    assert most == 35 + 3 * 13 * 2
    spent = np.asarray(search(jax.random.key(0), one, problem, prompts).cost.network_passes)
    assert np.all(spent <= most)
    assert np.any(spent < most)
    assert plan(one, problem, prompts).cost.network_passes == most
    # The last segment of four steps has the step of one pass.
    longer = rollover(quota=4, every=4)
    most = most_network_passes(longer, problem)
    assert plan(longer, problem, prompts).cost.network_passes == most == 35 + 3 * (3 * 8 + 7)
    size = largest(lambda n: rollover(quota=n), problem, network_passes=100)
    assert size == 3


def test_a_prompt_that_is_ahead_does_not_disturb_another():
    """Prompts are at different steps of one round. Kills: the place of one used for all."""
    problem = toys.problem(heun(karras(edm(), num_steps=6, sigma_max=20.0)))
    prompts, one = toys.prompts(6), rollover(quota=3)
    whole = search(jax.random.key(5), one, problem, prompts)
    assert len(set(np.asarray(whole.cost.network_passes).tolist())) > 1
    for place in range(6):
        own = take(prompts, slice(place, place + 1))
        alone = search(jax.random.key(5), one, problem, own)
        np.testing.assert_allclose(alone.score[0], whole.score[place], atol=1e-6)
        np.testing.assert_array_equal(
            alone.cost.network_passes[0], whole.cost.network_passes[place]
        )


def test_no_quota_is_refused():
    with pytest.raises(ValueError, match="quota is 0"):
        rollover(quota=0)
