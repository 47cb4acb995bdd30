"""Beam search against a search that is written out with lists, beam by beam, and brute force."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.noise import fresh, noise_key, repeat, take
from jaxsearch.core.plan import count_cost
from jaxsearch.core.process import edm, karras
from jaxsearch.core.search import search_in_chunks
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation, Noise, Prompts, Proposal
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


# ------------------------------------------------------------------------------------- brute force

BRANCHES, DEPTH = 4, 5  # of the solver's six steps the last one takes no noise


def one_tree(width: int):
    """Beam search in a tree that can be enumerated: one beginning, and the same noises everywhere.

    The other beams begin at what is no number, and go on only where nothing else is left.
    """
    one = beam(width=width, candidates=BRANCHES)

    def init_fn(space, key):
        state = one.init(space, key)
        alive = (jnp.arange(width) == 0).reshape((-1, *[1] * len(space.shape)))
        particles = take(state.particles, jnp.zeros((width,), jnp.int32))
        particles = particles._replace(x=jnp.where(alive, particles.x, jnp.nan))
        return state._replace(keys=repeat(state.keys[0], width), particles=particles)

    return one._replace(init=init_fn)


evaluated = jax.jit(evaluate)


def enumerated(problem, prompts: Prompts, first, table):
    """Every sequence of choices of one prompt: `{choices: (latent, score)}`, one program for all.

    Those of all `DEPTH` choices are finished samples; shorter ones are scored by the value.

    Args:
        problem: any whose last step takes no noise.
        prompts: [1].
        first: the key of the initial noise.
        table: [DEPTH][BRANCHES] the keys of the noises.
    """
    choices = [
        one for d in range(1, DEPTH + 1) for one in itertools.product(range(BRANCHES), repeat=d)
    ]
    taken = np.asarray([one + (0,) * (DEPTH + 1 - len(one)) for one in choices])
    steps = np.asarray([len(one) + (len(one) == DEPTH) for one in choices])
    keys = jnp.stack([table[min(i, DEPTH - 1)][taken[:, i]] for i in range(DEPTH + 1)], axis=1)
    coefs = jnp.ones(keys.shape, jnp.float32).at[:, DEPTH].set(0)
    root = repeat(noise_space(problem, 1).root(fresh(first, 1)), len(choices))
    proposal = Proposal(root, Noise(keys[..., None], coefs[..., None]), steps=jnp.asarray(steps))
    evaluation, _ = evaluated(problem, jax.tree.map(lambda leaf: leaf[None], proposal), prompts)
    found = zip(np.asarray(evaluation.child.x[0]), np.asarray(evaluation.score[0]), strict=True)
    return dict(zip(choices, found, strict=True))


def best_of(children, width: int):
    """The choices of the best children, best first, in plain NumPy."""
    scores = np.asarray([score for _, score in children])
    return [children[place][0] for place in np.argsort(-scores)[:width]]


@functools.cache
def trees():
    """The problem, two prompts, the key of their search and the tree of each."""
    key, prompts, problem_ = jax.random.key(9), toys.prompts(2), problem()
    space, found = noise_space(problem_, 1), []
    for prompt in range(2):
        init = jax.random.fold_in(jax.random.fold_in(key, int(prompts.ids[prompt])), 0)
        draw = jax.random.fold_in(init, 0)
        table = [
            jnp.stack([noise_key(space, draw, step + 1, number) for number in range(BRANCHES)])
            for step in range(DEPTH)
        ]
        alone = jax.tree.map(lambda leaf, prompt=prompt: leaf[prompt : prompt + 1], prompts)
        found.append(enumerated(problem_, alone, noise_key(space, draw, 0), table))
    return problem_, prompts, key, found


def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_sequences():
    """All 1024 leaves are kept to the end, and the result is the best of them.

    Kills: a child continued from another parent, or with another's noise; the best of each parent
    or of each noise in place of the best of all.
    """
    problem_, prompts, key, found = trees()
    *_, last = search_in_chunks(
        key, one_tree(BRANCHES**DEPTH), problem_, prompts, rounds_per_chunk=DEPTH + 1
    )
    for prompt, tree in enumerate(found):
        leaves = [leaf for choices, leaf in tree.items() if len(choices) == DEPTH]
        x, score = max(leaves, key=lambda leaf: leaf[1])
        np.testing.assert_allclose(last.score[prompt], score, atol=2e-6)
        np.testing.assert_allclose(last.best.x[prompt], x, atol=5e-6)
        kept = np.sort(last.searcher.particles.x[prompt, :, 0, 0, 0])
        np.testing.assert_allclose(kept, np.sort([x[0, 0, 0] for x, _ in leaves]), atol=5e-6)


def test_a_narrow_beam_is_the_beam_on_the_tree():
    """Its three beams after every round, in their order; it does not see the best leaf of both.

    Kills: a child continued from another parent; the best of each parent, the worst of all, or
    scores read along the other axis.
    """
    problem_, prompts, key, found = trees()
    states = list(search_in_chunks(key, one_tree(3), problem_, prompts, rounds_per_chunk=1))
    missed = 0
    for prompt, tree in enumerate(found):
        beams: list[tuple[int, ...]] = [()]
        for state in states[: DEPTH - 1]:
            children = [(*one, choice) for one in beams for choice in range(BRANCHES)]
            places = np.argsort([-tree[one][1] for one in children])[:3]
            beams = [children[place] for place in places]
            kept = state.searcher.particles.x[prompt]
            np.testing.assert_allclose(kept, [tree[one][0] for one in beams], atol=5e-6)
        best = max(tree[*one, choice][1] for one in beams for choice in range(BRANCHES))
        np.testing.assert_allclose(states[-1].score[prompt], best, atol=2e-6)
        missed += best < max(score for one, (_, score) in tree.items() if len(one) == DEPTH)
    assert missed  # or it would be no other search than the wide one


# ------------------------------------------------------------------------------------------- rounds


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
