"""Beam search against a search that is written out with lists, beam by beam."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.noise import fresh, noise_key, take
from jaxsearch.core.plan import count_cost
from jaxsearch.core.process import edm, karras
from jaxsearch.core.search import search_in_chunks
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation, Prompts, Proposal
from jaxsearch.core.value import lookahead
from jaxsearch.searchers import beam
from jaxsearch.solvers import heun
from tests import cases, toys


def problem():
    return toys.problem(cases.solvers()["ddpm"], value=lookahead(), verifiers=(toys.near_target,))


@functools.partial(jax.jit, static_argnames="num_steps")
def one_child(problem, parent, draw, number, prompts, num_steps: int):
    """A single child of a single parent, and its score."""
    space = noise_space(problem, 1)
    keys = [noise_key(space, draw, parent.step + s + 1, number) for s in range(num_steps)]
    noise = fresh(jnp.stack(keys), 1)
    proposal = jax.tree.map(lambda leaf: leaf[None, None], Proposal(parent, noise))
    evaluation, _ = evaluate(problem, proposal, prompts)
    return take(evaluation.child, (0, 0)), evaluation.score[0, 0]


def written_out(key, problem, prompts: Prompts, width: int, candidates: int, every: int):
    """(beams, parents) of one prompt after each round."""
    space = noise_space(problem, 1)
    init = jax.random.fold_in(jax.random.fold_in(key, int(prompts.ids[0])), 0)
    draws = [jax.random.fold_in(init, number) for number in range(width)]
    beams = [space.root(fresh(noise_key(space, draw, 0), 1)) for draw in draws]
    begin = 0
    while begin < space.num_steps:
        # Of these steps only the last takes no noise.
        num_steps = min(every, space.num_steps - begin)
        branches = candidates if space.active[begin] else 1
        children = []
        for number in range(branches):
            for parent, (particle, draw) in enumerate(zip(beams, draws, strict=True)):
                child, score = one_child(problem, particle, draw, number, prompts, num_steps)
                children.append((float(score), parent, child))
        best = sorted(children, key=lambda child: -child[0])[:width]
        beams = [child for _, _, child in best]
        begin += num_steps
        yield beams, [parent for _, parent, _ in best]


@pytest.mark.parametrize("every", [1, 2])
def test_it_is_the_search_written_out(every):
    """Beams, their order and their lineage, after every round and for every prompt alone.

    Kills: a child continued from another parent or another prompt; a selection per parent instead
    of over all; the worst instead of the best; children whose noise is that of another place.
    """
    key, prompts, problem_ = jax.random.key(4), toys.prompts(2), problem()
    one = beam(width=3, candidates=2, every=every)
    states = list(search_in_chunks(key, one, problem_, prompts, rounds_per_chunk=1))
    strangers = 0
    for prompt in range(2):
        alone = jax.tree.map(lambda leaf, prompt=prompt: leaf[prompt : prompt + 1], prompts)
        rounds = list(written_out(key, problem_, alone, 3, 2, every))
        for state, (beams, parents) in zip(states, rounds, strict=True):
            strangers += sum(parent != place for place, parent in enumerate(parents))
            for place, expected in enumerate(beams):
                kept = take(state.searcher.particles, (prompt, place))
                np.testing.assert_allclose(kept.x, expected.x, atol=2e-6)
                taken = slice(0, int(kept.step) + 1)
                np.testing.assert_array_equal(
                    jax.random.key_data(kept.noise.keys[taken]),
                    jax.random.key_data(expected.noise.keys[taken]),
                )
    assert strangers > 5  # or the test would not see a wrong parent


def told(scores) -> list[int]:
    """Which of 6 children of 3 beams go on, by their scores."""
    one = beam(width=3, candidates=2)
    problem_ = problem()
    space = noise_space(problem_, 1)
    stage = stages_of(one, problem_)[0]
    state = one.init(space, jax.random.key(0))
    proposal = stage.ask(jax.random.key(0), jnp.int32(0), state)
    names = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], proposal.parent.x.shape)
    score = jnp.asarray(scores, jnp.float32)
    child = proposal.parent._replace(x=names)
    after = stage.tell(
        jax.random.key(0), jnp.int32(0), state, proposal, Evaluation(child, score, score[:, None])
    )
    return [int(name) for name in after.particles.x[:, 0, 0, 0]]


def test_equal_scores_go_to_different_parents():
    """Children n of beam b are number 3n + b, so the first of equals have one parent each."""
    assert told([0.5] * 6) == [0, 1, 2]
    assert told([-np.inf] * 6) == [0, 1, 2]
    assert told([-np.inf, 0.1, 0.3, -np.inf, 0.2, 0.0]) == [2, 4, 1]


def test_published_counts():
    """EDM's 18 steps with N = 4, B = 2: 13 steps branch (2*4 children), 5 are passed (2 beams).

    Kills: steps without noise branched; the passage charged once per beam and child.
    """
    cost = count_cost(beam(), toys.problem(heun(karras(edm(), num_steps=18))))
    assert cost.solver_steps == 13 * 8 + 5 * 2
    assert cost.network_passes == 2 * 13 * 8 + (2 * 2 + 3 * 2 - 1) * 2
    assert cost.verifier_calls == 13 * 8 + 2 * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"every": 0}, "every is 0"),
        ({"window": (1.0, 0.5)}, "window is"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        beam(**settings)
