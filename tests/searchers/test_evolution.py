"""Evolution: selection and mutation in closed form, lineage along the schedule."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import realise, take
from jaxsearch.core.plan import count_cost, stage_plans
from jaxsearch.core.process import edm, karras
from jaxsearch.core.replay import replay
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Decoder, Evaluation, Objective, Problem, Verifier
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import best_of_n, evolution
from jaxsearch.solvers import heun
from tests import cases, toys

SHAPE = (2, 2, 1)


def lineage(proposal):
    """The recipes [K, T + 1, M] that the children of a proposal will have."""
    # All parents are at one step; row i + 1 is the noise of step i.
    rows = proposal.parent.step[0] + 1 + jnp.arange(proposal.noise.coefs.shape[1])
    return jax.tree.map(
        lambda old, new: old.at[:, rows].set(new), proposal.parent.noise, proposal.noise
    )


@functools.cache
def compiled(searcher, solver):
    """A searcher's state and its stages as programs `(key, round, state, score) -> round`."""
    problem = toys.problem(cases.solvers()[solver])
    space = noise_space(problem, searcher.rank)

    def program(stage):
        def one_round(key, round, state, score):
            proposal = stage.ask(key, round, state)
            child = proposal.parent._replace(
                noise=lineage(proposal), step=proposal.parent.step + proposal.noise.coefs.shape[1]
            )
            score = jnp.broadcast_to(score, child.step.shape)
            evaluation = Evaluation(child, score, score[:, None])
            key = jax.random.fold_in(key, 1)
            return proposal, stage.tell(key, round, state, proposal, evaluation)

        return jax.jit(one_round)

    stages = stages_of(searcher, problem)
    state = jax.jit(functools.partial(searcher.init, space))(jax.random.key(1))
    return state, [(stage.rounds, program(stage)) for stage in stages]


def evolve(searcher, solver, scores):
    """All rounds, without a model, at the children's scores of each round.

    Returns (stage, proposal, state after) of each round.
    """
    (state, stages), seen = compiled(searcher, solver), []
    for index, (rounds, one_round) in enumerate(stages):
        for round in range(rounds):
            key = jax.random.fold_in(jax.random.key(2), len(seen))
            score = jnp.asarray(scores(len(seen)), jnp.float32)
            proposal, state = one_round(key, jnp.int32(round), state, score)
            seen.append((index, proposal, state))
    return seen


def data(keys) -> np.ndarray:
    return np.asarray(jax.random.key_data(keys))


def test_mutation_keeps_the_variance_and_the_parent():
    """Kills: a dropped `sqrt(1 - mutation^2)`; a term in a used slot; another child's parent;
    noise drawn for steps that take none.

    The squared coefficients of a recipe sum to its variance; their product with the parent's is the
    correlation, `sqrt(1 - mutation^2)`.
    """
    one = evolution(population=5, survivors=2, generations=3, mutation=0.6, schedule=(0, 1, 3))
    growing, nothing = np.arange(5), 0.0
    seen = evolve(one, "ddpm", lambda round: nothing if round in (4, 8) else growing)
    active = np.asarray([True, *cases.solvers()["ddpm"].active])
    for (_, _, before), (stage, proposal, _) in itertools.pairwise(seen):
        noise = lineage(proposal)
        np.testing.assert_array_equal(noise.coefs[:, ~active], 0.0)
        np.testing.assert_allclose(
            np.sum(np.asarray(noise.coefs) ** 2, axis=-1)[:, active], 1.0, rtol=1e-5
        )
        if len(proposal.parent.step) == 2:
            continue  # survivors on their way to the next step
        parent = take(before.parents.noise, np.arange(5) % 2)
        shared = np.all(data(noise.keys) == data(parent.keys), axis=-1)
        product = np.asarray(noise.coefs) * np.asarray(parent.coefs)
        kept = np.sum(np.where(shared, product, 0.0), axis=-1)
        step = {0: 0, 2: 1, 4: 3}[stage]
        rows = np.arange(cases.NUM_STEPS + 1)
        mutates = (rows == 0) if step == 0 else (rows > step)
        expected = np.where(mutates, 0.8, 1.0)[active]
        np.testing.assert_allclose(kept[:, active], np.broadcast_to(expected, (5, 6)), rtol=1e-5)


def test_an_added_mutation_moves_the_partial_sample_and_draws_the_rest_anew():
    """At step 2 a child's noise of the step before is its parent's and one Gaussian more, and its
    later ones are its own.

    Kills: noise added a step late or early; a scaled parent; later noise of the parent or shared by
    the children; the population of another step.
    """
    sizes = [5, 3, 3, 2, 4, 4]
    one = evolution(
        population=(5, 3, 4), survivors=2, generations=2, schedule=(0, 2), partial="add"
    )
    seen = evolve(one, "ddpm", lambda round: 0.0 if round == 3 else np.arange(5.0)[: sizes[round]])
    assert [len(proposal.parent.step) for _, proposal, _ in seen] == sizes
    for (_, _, before), (_, proposal, _) in itertools.pairwise(seen[3:]):
        assert np.all(np.asarray(proposal.parent.step) == 1)
        assert proposal.noise.coefs.shape[1] == cases.NUM_STEPS - 1
        noise, parent = lineage(proposal), take(before.parents.noise, np.arange(4) % 2)
        np.testing.assert_array_equal(data(noise.keys[:, :2]), data(parent.keys[:, :2]))
        np.testing.assert_array_equal(noise.coefs[:, :2], parent.coefs[:, :2])
        gained = np.asarray(noise.coefs[:, 2]) - np.asarray(parent.coefs[:, 2])
        np.testing.assert_array_equal(np.sort(gained, axis=-1)[:, -1], 1.0)
        np.testing.assert_array_equal(np.count_nonzero(gained, axis=-1), 1)
        keys = data(noise.keys)[:, 2:6, 0]
        assert np.all(keys[:, 0] == data(parent.keys)[:, 2, 0])
        assert len({tuple(key) for key in keys[:, 1:].reshape(-1, 2)}) == 12
        np.testing.assert_array_equal(noise.coefs[:, 3:6, 0], 1.0)
        np.testing.assert_array_equal(noise.coefs[:, 3:, 1:], 0.0)


def test_mutants_of_a_parent_are_independent_draws():
    """Their sample correlation over 4000 numbers is that of the recipe. Kills: one key for all."""
    one = evolution(population=3, survivors=1, generations=1, mutation=0.6)
    seen = evolve(one, "ddim", lambda round: np.arange(3))
    parent, noise = seen[0][2].parents.noise, take(lineage(seen[1][1]), (slice(None), 0))
    drawn = np.asarray(realise(jax.tree.map(
        lambda old, new: jnp.concatenate([old[:, 0], new]), parent, noise), (4000,)))  # fmt: skip
    expected = np.full((4, 4), 0.64)
    expected[0] = expected[:, 0] = 0.8
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(drawn @ drawn.T / 4000, expected, atol=4 / np.sqrt(4000))


def survivors_of(searcher, scores):
    """Which children survive the first generation at these scores."""
    problem = toys.problem(cases.solvers()["ddim"])
    space = noise_space(problem, searcher.rank)
    stage = stages_of(searcher, problem)[0]
    scores = jnp.asarray(scores, jnp.float32)

    def run(key):
        state = searcher.init(space, jax.random.key(1))
        proposal = stage.ask(jax.random.key(2), jnp.int32(0), state)
        noise = lineage(proposal)
        child = proposal.parent._replace(noise=noise)
        evaluation = Evaluation(child, scores, scores[:, None])
        state = stage.tell(key, jnp.int32(0), state, proposal, evaluation)
        names, mine = (jax.random.key_data(n.keys)[:, 0, 0] for n in (noise, state.parents.noise))
        return jnp.argmax(jnp.all(mine[:, None] == names[None], axis=-1), axis=1), state.scores[
            :, 0
        ]

    keys = jax.random.split(jax.random.key(3), 1000)
    return (np.asarray(out) for out in jax.jit(jax.vmap(run))(keys))


def test_truncation_keeps_the_best():
    """Kills: selection that ignores the scores; the worst kept; scores of others."""
    scores = [0.3, -np.inf, 0.9, 0.1, 0.5, 0.2]
    who, score = survivors_of(evolution(population=6, survivors=3, selection="truncation"), scores)
    np.testing.assert_array_equal(who, np.broadcast_to([2, 4, 0], (1000, 3)))
    np.testing.assert_allclose(score[0], [0.9, 0.5, 0.3])


@pytest.mark.parametrize("size", [1, 3])
def test_tournaments_press_as_hard_as_their_size(size):
    """The winner of `s` of `n` drawn with replacement is one of the `j` best with probability
    `1 - (1 - j/n)^s`. The best always stays. Kills: scores ignored; a tournament of another size;
    survivors that are none yet drawn in the first generation.
    """
    scores = np.asarray([0.3, -np.inf, 0.9, 0.1, 0.5, 0.2])
    one = evolution(population=6, survivors=5, tournament_size=size)
    who, score = survivors_of(one, scores)
    np.testing.assert_array_equal(who[:, 0], 2)
    place = np.argsort(np.argsort(-scores))[who[:, 1:]].ravel()
    for best in range(1, 6):
        expected = 1 - (1 - best / 6) ** size
        slack = 3.5 * np.sqrt(expected * (1 - expected) / len(place))
        assert abs(np.mean(place < best) - expected) < slack
    np.testing.assert_allclose(score, scores[who].astype(np.float32))


SCHEDULED = evolution(population=4, survivors=2, generations=2, schedule=(0, 2))


def test_the_best_survives_worse_generations():
    """Kills: survivors that are not in the pool; their scores forgotten."""
    scores = [np.eye(4)[1], 5 * np.eye(4)[3], np.eye(4)[2], 9.0, 7 * np.eye(4)[3], np.eye(4)[0]]
    seen = evolve(SCHEDULED, "ddpm", lambda round: scores[round])
    # Round 3 takes the survivors on: their scores are not those of finished samples.
    assert [float(state.scores[0, 0]) for _, _, state in seen] == [1.0, 5.0, 5.0, 5.0, 7.0, 7.0]
    for round in (1, 4):
        best = take(lineage(seen[round][1]), 3)
        kept = take(seen[round + 1][2].parents.noise, 0)
        np.testing.assert_array_equal(data(kept.keys), data(best.keys))
        np.testing.assert_array_equal(kept.coefs, best.coefs)


def test_failed_scores_lose_and_harm_nothing():
    """Kills: a NaN of two failed scores; a failed child before one that is not."""
    one_good = np.asarray([-np.inf, 0.5, -np.inf, -np.inf])
    seen = evolve(SCHEDULED, "ddpm", lambda round: one_good if round in (2, 4) else -np.inf)
    top = [float(state.scores[0, 0]) for _, _, state in seen]
    assert top == [-np.inf, -np.inf, 0.5, 0.5, 0.5, 0.5]
    for _, proposal, state in seen:
        assert np.all(np.isfinite(np.asarray(proposal.noise.coefs)))
        assert not np.any(np.isnan(np.asarray(state.scores)))


def test_a_survivor_is_where_its_recipe_leads():
    """Replay of a survivor gives its score, after it was taken on and after a generation there.

    Kills: the partial sample of another child; survivors taken on by other noise than their own;
    rows after the step that are the parent's and not the child's.
    """
    problem, prompts = toys.problem(cases.solvers()["ddpm"]), toys.prompts(3)
    seen = [state.searcher for state in search_in_chunks(
        jax.random.key(5), SCHEDULED, problem, prompts, rounds_per_chunk=9)]  # fmt: skip
    assert [int(state.parents.step[0, 0]) for state in seen] == [0, 2, 2]
    for state, survivor in itertools.product(seen[1:], range(2)):
        noise = take(state.parents.noise, (slice(None), survivor))
        images = problem.objective.decoder(replay(problem, noise, prompts).x)
        score = state.scores[:, survivor, 0]
        np.testing.assert_allclose(toys.bright(images, {}), score, atol=1e-6)
    assert np.any(np.asarray(seen[2].scores) > np.asarray(seen[1].scores))


def _pixels(params, latents):
    return latents


def _near(params, images, context):
    return -jnp.mean((images - params["target"]) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("selection", ["truncation", "tournament"])
def test_it_climbs_to_a_known_optimum(selection):
    """Gaussian data, a quadratic reward whose best is 0. Kills: selection that ignores the scores.

    At the same number of samples it leaves best-of-N far behind.
    """
    solver = cases.solvers()["ddim"]
    target = jnp.asarray([0.5, -0.8, 0.3, 0.9], jnp.float32).reshape(SHAPE)
    verifier = Verifier(name="near", apply=_near, params={"target": target[None]})
    problem = Problem(
        denoiser=toys.gaussian(0.0, 1.0, SHAPE, solver.schedule.process),
        objective=Objective(decoder=Decoder(apply=_pixels), verifiers=(verifier,)),
        solver=solver,
        value=solver_estimate(),
    )
    one = evolution(population=16, survivors=4, generations=15, mutation=0.2, selection=selection)
    prompts = toys.prompts(16)
    found = search(jax.random.key(0), one, problem, prompts)
    same = search(jax.random.key(0), best_of_n(candidates=256), problem, prompts)
    np.testing.assert_array_equal(found.cost.network_passes, same.cost.network_passes)
    assert np.mean(found.score) > 0.3 * np.mean(same.score)
    assert np.mean(found.score) > -0.02


def test_counts():
    """T = 18 on EDM's Heun: each generation at a step costs the steps after it. Kills: a whole
    population passed on; the plain generation left out; steps taken twice.
    """
    problem = toys.problem(heun(karras(edm(), num_steps=18)))
    one = evolution(population=6, survivors=2, generations=3, schedule=(0, 4))
    stages = [stage[:3] for stage in stage_plans(one, problem)]
    assert stages == [(4, 6, 18), (1, 2, 4), (3, 6, 14)]
    steps = 4 * 6 * 18 + 2 * 4 + 3 * 6 * 14
    cost = count_cost(one, problem)
    # Two passes a step, one in the last.
    assert (cost.solver_steps, cost.network_passes) == (steps, 2 * steps - 7 * 6)
    two = evolution(population=6, survivors=2, generations=3, schedule=(4, 10))
    stages = [stage[:3] for stage in stage_plans(two, problem)]
    assert stages == [(1, 6, 18), (1, 2, 4), (3, 6, 14), (1, 2, 6), (3, 6, 8)]


def test_mutation_may_be_traced():
    """Kills: a branch on the setting; `float` of it."""
    problem, prompts = toys.problem(cases.solvers()["ddim"]), toys.prompts(2)

    def run(mutation):
        one = evolution(generations=1, mutation=mutation)
        return search(jax.random.key(0), one, problem, prompts).score

    sizes = np.float32([0.1, 0.9])
    together = jax.jit(jax.vmap(run))(sizes)
    assert not np.allclose(*together)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 0}, "population is 0"),
        (
            {"population": (8, 4), "schedule": (0, 2)},
            "population has 2 numbers for a schedule of 2",
        ),
        ({"partial": "drop"}, "unknown partial 'drop': take 'turn' or 'add'"),
        ({"generations": 0}, "generations is 0"),
        ({"survivors": 9}, r"survivors is 9: it must lie in \[1, 8\]"),
        ({"selection": "roulette"}, "'truncation' or 'tournament'"),
        ({"tournament_size": 0}, "tournament_size is 0"),
        ({"mutation": 1.5}, "mutation is 1.5"),
        ({"schedule": (0, 0)}, r"schedule is \(0, 0\)"),
        ({"schedule": (3, 1)}, r"schedule is \(3, 1\)"),
        ({"schedule": (-1,)}, r"schedule is \(-1,\)"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        evolution(**settings)


def test_a_step_without_noise_after_it_is_refused():
    with pytest.raises(ValueError, match="injects no noise after step 4"):
        stages_of(evolution(schedule=(0, 5)), toys.problem(cases.solvers()["flow_sde"]))
    added = evolution(schedule=(0, 1, 6), partial="add")
    with pytest.raises(ValueError, match=r"at steps \[1, 2, 3, 4, 5\] only"):
        stages_of(added, toys.problem(cases.solvers()["flow_sde"]))
