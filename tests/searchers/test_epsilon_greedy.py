"""Epsilon-greedy: the first paper's algorithm 1, term by term."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import realise, take
from jaxsearch.core.plan import count_cost, plan
from jaxsearch.core.process import edm, karras
from jaxsearch.core.replay import replay
from jaxsearch.core.search import search
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation
from jaxsearch.core.value import lookahead
from jaxsearch.searchers import best_of_n, epsilon_greedy
from jaxsearch.solvers import heun
from tests import cases, toys

SHAPE = (8, 8, 3)


def setup(searcher, num_steps: int = 4):
    """The searcher on a solver every step of which but the last is active."""
    solver = heun(karras(edm(), num_steps=num_steps, sigma_max=20.0, sigma_min=0.1))
    problem = toys.problem(solver, denoiser=toys.gaussian(0.0, 1.0, SHAPE, edm()))
    space = noise_space(problem, searcher.rank)
    return space, stages_of(searcher, problem), problem


def rounds_of(searcher, num: int, scores=None):
    """The first rounds of the searched stage: (state before, proposal, state after) each."""
    space, stages, _ = setup(searcher)
    state, seen = searcher.init(space, jax.random.key(1)), []
    for index in range(num):
        proposal = stages[0].ask(
            jax.random.fold_in(jax.random.key(2), index), jnp.int32(index), state
        )
        count = proposal.parent.x.shape[0]
        score = jnp.arange(count, dtype=jnp.float32) if scores is None else scores[index]
        child = proposal.parent._replace(x=proposal.value[:, 0], step=proposal.parent.step + 1)
        evaluation = Evaluation(child, score, score[:, None])
        after = stages[0].tell(jax.random.key(3), jnp.int32(index), state, proposal, evaluation)
        seen.append((state, proposal, after))
        state = after
    return space, seen


def test_local_moves_have_uniform_length_up_to_the_radius():
    """Kills: a fixed length; an unnormalised direction; a radius without sqrt(d)."""
    radius = 0.15
    one = epsilon_greedy(candidates=400, iterations=2, epsilon=0.0, radius=radius)
    _, seen = rounds_of(one, 2)
    pivot, proposal = seen[0][2].value, seen[1][1]
    moves = np.asarray(proposal.value[:, 0] - pivot[None]).reshape(400, -1)
    lengths = np.linalg.norm(moves, axis=1) / (radius * np.sqrt(np.prod(SHAPE)))
    assert 0.0 <= lengths.min() < 0.02
    assert 0.98 < lengths.max() <= 1.0 + 1e-5
    # Kolmogorov-Smirnov against U(0, 1) at the 99.9 % level.
    distance = np.abs(np.sort(lengths) - (np.arange(400) + 0.5) / 400).max()
    assert distance < 1.95 / np.sqrt(400)


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_each_candidate_has_its_own_coin(epsilon):
    """Kills: one coin for all; the coin inverted. A fresh draw has one term of coefficient 1."""
    one = epsilon_greedy(candidates=400, iterations=3, epsilon=epsilon)
    _, seen = rounds_of(one, 3, scores=[jnp.zeros(400)] * 3)
    for _, proposal, _ in seen[1:]:
        coefs = np.asarray(proposal.noise.coefs[:, 0])
        explores = (coefs[:, 0] == 1.0) & np.all(coefs[:, 1:] == 0, axis=1)
        rate = explores.mean()
        assert abs(rate - epsilon) <= 3.3 * np.sqrt(epsilon * (1 - epsilon) / 400)


def test_carried_values_are_their_recipes():
    """Kills: a term in a wrong slot; a pivot's value and recipe that part ways."""
    one = epsilon_greedy(candidates=3, iterations=5, epsilon=0.3)
    space, seen = rounds_of(one, 12)
    for index, (_, proposal, after) in enumerate(seen):
        drawn = realise(proposal.noise, space.shape)
        np.testing.assert_allclose(drawn, proposal.value, atol=1e-5)
        pivot = take(after.parent.noise, index // 5 + 1)
        np.testing.assert_allclose(realise(pivot, space.shape), after.value, atol=1e-5)


def test_a_step_is_taken_after_its_last_iteration_with_the_last_winner():
    """Kills: a commit one round early or late; the best of all iterations instead of the last."""
    one = epsilon_greedy(candidates=2, iterations=3)
    scores = [jnp.asarray(pair) for pair in ([0.9, 0.1], [0.2, 0.3], [0.05, 0.01], [0.0, 1.0])]
    _, seen = rounds_of(one, 4, scores=scores)
    steps = [int(after.parent.step) for _, _, after in seen]
    assert steps == [0, 0, 1, 1]
    _, proposal, after = seen[2]
    np.testing.assert_array_equal(after.parent.x, proposal.value[0, 0])


def test_elitism_keeps_the_best_of_all_iterations():
    one = epsilon_greedy(candidates=2, iterations=3, elitist=True)
    scores = [jnp.asarray(pair) for pair in ([0.9, 0.1], [0.2, 0.3], [0.05, 0.01], [0.0, 0.1])]
    _, seen = rounds_of(one, 4, scores=scores)
    np.testing.assert_array_equal(seen[2][2].parent.x, seen[0][1].value[0, 0])
    # A new step begins without a champion: its first winner is taken whatever its score.
    np.testing.assert_array_equal(seen[3][2].child.x, seen[3][1].value[1, 0])


def test_published_counts():
    """T = 18, N = 4, K = 20 on EDM's Heun: naive 35, best-of-4 140, 2089 and 2800 passes.

    Kills: Heun's last step counted twice; steps without noise searched; a committed step run again.
    """
    problem = toys.problem(heun(karras(edm(), num_steps=18)))
    assert count_cost(best_of_n(candidates=1), problem).network_passes == 35
    assert count_cost(best_of_n(candidates=4), problem).network_passes == 140
    assert count_cost(epsilon_greedy(), problem).network_passes == 2089
    full = count_cost(epsilon_greedy(search_inactive=True), problem)
    assert (full.network_passes, full.solver_steps, full.verifier_calls) == (2800, 1440, 1440)


def test_lookahead_costs_one_pass_per_unfinished_candidate():
    solver = heun(karras(edm(), num_steps=18))
    cost = count_cost(epsilon_greedy(), toys.problem(solver, value=lookahead()))
    # 13 searched steps of 80 candidates, and the first of the two passages; the last is finished.
    assert cost.network_passes == 2089 + 13 * 80 + 1


def test_iterations_per_step():
    """Kills: the schedule shifted by a step; a step of no iterations searched."""
    one = epsilon_greedy(candidates=3, iterations=(0, 2, 3, 0, 1, 2))
    problem = toys.problem(cases.solvers()["flow_sde"])
    stages = [stage[:3] for stage in plan(one, problem, toys.prompts(1)).stages]
    # The flow's last step lands on the clean sample and takes no noise.
    assert stages == [(1, 1, 1), (5, 3, 1), (1, 1, 1), (1, 3, 1), (1, 1, 1)]
    found = search(jax.random.key(0), one, problem, toys.prompts(2))
    coefs = np.asarray(found.particle.noise.coefs)
    terms = (coefs[:, 1:] != 0).sum(axis=-1)
    assert np.all(terms[:, 0] == 1)
    assert np.all(terms[:, 3] == 1)
    assert np.all(terms <= np.asarray([1, 3, 4, 1, 2, 3]))


def test_steps_searched_together_move_together():
    """With `every` 2 a candidate is two noises, moved by up to radius*sqrt(2*d) in one direction.

    Kills: a radius of one step; a direction for each step; one noise for both; a pivot or a lineage
    row of the wrong step.
    """
    radius, size = 0.15, np.prod(SHAPE)
    one = epsilon_greedy(candidates=400, iterations=2, epsilon=0.0, radius=radius, every=2)
    space, stages, _ = setup(one)
    # Three steps take noise: two are searched together, then the third with the last one.
    assert [(stage.rounds, stage.finishes) for stage in stages] == [(4, True)]
    state, states = one.init(space, jax.random.key(1)), []
    for index in range(4):
        proposal = stages[0].ask(jax.random.key(index), jnp.int32(index), state)
        drawn = realise(take(proposal.noise, slice(3)), space.shape)
        np.testing.assert_allclose(drawn, proposal.value[:3], atol=1e-5)
        if index % 2:
            moves = np.asarray(proposal.value - state.value[None]).reshape(400, 2, -1)
            lengths = np.linalg.norm(moves, axis=(1, 2)) / (radius * np.sqrt(2 * size))
            distance = np.abs(np.sort(lengths) - (np.arange(400) + 0.5) / 400).max()
            assert distance < 1.95 / np.sqrt(400)
            # A direction that is uniform in both steps gives each half of its squared length.
            shares = (
                np.linalg.norm(moves, axis=2) ** 2
                / np.linalg.norm(moves, axis=(1, 2))[:, None] ** 2
            )
            assert np.abs(shares - 0.5).max() < 0.2
            assert shares.std() > 0.01
        score = jnp.arange(400.0)
        child = proposal.parent._replace(step=proposal.parent.step + 2)
        evaluation = Evaluation(child, score, score[:, None])
        state = stages[0].tell(jax.random.key(3), jnp.int32(index), state, proposal, evaluation)
        states.append(state)
    assert [int(state.parent.step) for state in states] == [0, 2, 2, 4]
    for state, rows in zip(states[1::2], (slice(1, 3), slice(3, 5)), strict=True):
        pivot = take(states[-1].parent.noise, rows)
        np.testing.assert_allclose(realise(pivot, space.shape), state.value, atol=1e-5)


def test_every_and_window_choose_the_steps():
    """EDM's 18 steps: 13 take noise, from number 2 on; a window holds some of them.

    Kills: `every` or `window` not read; steps outside passed by all candidates.
    """
    problem = toys.problem(heun(karras(edm(), num_steps=18)))
    settings = {"candidates": 3, "iterations": 2}

    def stages(**more):
        one = epsilon_greedy(**settings, **more)
        return [stage[:3] for stage in plan(one, problem, toys.prompts(1)).stages]

    assert stages(every=4) == [(1, 1, 2), (8, 3, 4)]
    assert stages(every=5) == [(1, 1, 2), (6, 3, 5), (1, 1, 1)]
    assert stages(window=(0.01, 1.0)) == [(1, 1, 11), (8, 3, 1), (1, 1, 3)]


def test_a_shorter_last_segment_is_searched_too():
    """Six steps by four: the last two have a stage of their own, and the sample replays.

    Kills: a pivot of four steps used for two; lineage rows beyond the last step.
    """
    problem, prompts = toys.problem(cases.solvers()["ddpm"]), toys.prompts(2)
    one = epsilon_greedy(candidates=2, iterations=3, epsilon=0.2, elitist=True, every=4)
    stages = [stage[:3] for stage in plan(one, problem, prompts).stages]
    assert stages == [(3, 2, 4), (3, 2, 2)]
    found = search(jax.random.key(0), one, problem, prompts)
    again = replay(problem, found.particle.noise, prompts)
    np.testing.assert_allclose(again.x, found.particle.x, atol=2e-5)


def test_epsilon_decides_between_local_and_global():
    """The three published settings are three algorithms. Kills: epsilon not read."""
    problem, prompts = toys.problem(cases.solvers()["heun_edm"]), toys.prompts(3)
    scores = [
        np.asarray(search(jax.random.key(0), epsilon_greedy(candidates=3, iterations=3, epsilon=e),
                          problem, prompts).score)
        for e in (0.0, 0.4, 1.0)
    ]  # fmt: skip
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": (0, 0)}, "iterations is 0"),
        ({"iterations": (1, -1)}, "iterations of a step is -1"),
        ({"epsilon": 1.5}, "epsilon is 1.5"),
        ({"radius": 0.0}, "radius is 0.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"every": 0}, "every is 0"),
        ({"window": (1.0, 0.1)}, r"window is \(1.0, 0.1\)"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        epsilon_greedy(**settings)


def test_a_schedule_that_searches_nothing_is_refused():
    with pytest.raises(ValueError, match="searches no step that takes noise"):
        search(
            jax.random.key(0),
            epsilon_greedy(iterations=(0, 0, 0, 0, 0, 2)),
            toys.problem(cases.solvers()["ddpm"]),
            toys.prompts(1),
        )


def test_a_schedule_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 numbers, but the solver takes 6 steps"):
        search(
            jax.random.key(0),
            epsilon_greedy(iterations=(1, 2)),
            toys.problem(cases.solvers()["ddpm"]),
            toys.prompts(1),
        )
