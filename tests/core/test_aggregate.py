"""Ensembles of guides, alone and inside a search."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxsearch.core.aggregate import mean_rank, total, weighted, worst
from jaxsearch.core.evaluate import combined
from jaxsearch.core.replay import replay
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Evaluation, Objective, Verifier
from jaxsearch.searchers import best_of_n, markov_chain, mcts, smc, zero_order
from jaxsearch.searchers.early_stop import early_stop
from tests import cases, toys

SCORES = np.asarray([[0.1, 9.0], [0.3, -1.0], [0.2, 9.0], [0.3, 4.0]], np.float32)


def corner(params, images, context):
    return params["scale"] * (1 - images[:, 0, 0, 0]) ** 3


def second(scale: float) -> Verifier:
    """Another guide on another scale, which wants one corner dark."""
    return Verifier(name="corner", apply=corner, params={"scale": jnp.float32(scale)})


def problem(aggregate, *verifiers, solver="heun_edm"):
    base = toys.problem(cases.solvers()[solver], verifiers=verifiers or (toys.bright, second(1.0)))
    objective = dataclasses.replace(base.objective, aggregate=aggregate)
    return dataclasses.replace(base, objective=objective)


def test_each_is_what_it_says():
    """Ranks against SciPy. Kills: the highest rank for the lowest score; ties broken by place."""
    np.testing.assert_allclose(total().combine(SCORES), SCORES.sum(axis=1))
    np.testing.assert_allclose(
        weighted(weights=[2, -0.5]).combine(SCORES), SCORES @ [2, -0.5], rtol=1e-6
    )
    np.testing.assert_allclose(worst().combine(SCORES), [0.1, -1.0, 0.2, 0.3])
    expected = (stats.rankdata(SCORES, axis=0) - 1).mean(axis=1) / 3
    np.testing.assert_allclose(mean_rank().combine(jnp.asarray(SCORES)), expected, rtol=1e-6)
    np.testing.assert_allclose(mean_rank().combine(jnp.asarray(SCORES[:1])), [0.0])
    assert weighted() is total()


def test_ranks_do_not_see_scales_and_sums_do():
    """The same winner, to the bit, when a guide is stretched monotonically."""
    key, prompts = jax.random.key(3), toys.prompts(6)
    one = best_of_n(candidates=8)
    winners = {
        (aggregate.name, scale): np.asarray(
            search(key, one, problem(aggregate, toys.bright, second(scale)), prompts).particle.x
        )
        for aggregate in (total(), mean_rank())
        for scale in (1.0, 40.0)
    }
    np.testing.assert_array_equal(winners["mean_rank", 1.0], winners["mean_rank", 40.0])
    assert np.any(winners["total", 1.0] != winners["total", 40.0])


def test_the_best_so_far_is_compared_anew_in_every_round():
    """Against all finished samples of all rounds, taken as pairs with the winner.

    Kills: a rank of one round compared with a rank of another, which the last round would win.
    """
    key, prompts = jax.random.key(3), toys.prompts(5)
    one, problem_ = zero_order(neighbours=3, iterations=6, step=0.3), problem(mean_rank())
    rounds = list(search_in_chunks(key, one, problem_, prompts, rounds_per_chunk=1))
    final = np.asarray(rounds[-1].scores)
    kept = 0
    for before, after in itertools.pairwise(rounds):
        same = np.all(np.asarray(before.scores) == np.asarray(after.scores), axis=1)
        kept += same.sum()
    assert 0 < kept < 25  # some rounds bring nothing better, some do
    images = problem_.objective.decoder(rounds[-1].best.x)
    np.testing.assert_allclose(toys.bright(images, {}), final[:, 0], atol=1e-6)
    again = replay(problem_, rounds[-1].best.noise, prompts)
    np.testing.assert_allclose(again.x, rounds[-1].best.x, atol=2e-5)


@pytest.mark.parametrize(
    "searcher", ["zero_order_elitist", "epsilon_greedy_elitist", "evolution", "rollover"]
)
def test_what_is_kept_from_round_to_round_is_ranked_anew(searcher):
    """Two guides that agree on every order lead where one of them leads alone, to the bit.

    Kills: a rank among the candidates of an earlier round held against one of this round; ranks
    without the incumbent, which the best of every round would win; its scores forgotten.
    """
    key, prompts, one = jax.random.key(3), toys.prompts(3), cases.SEARCHERS[searcher].searcher
    both = problem(mean_rank(), toys.bright, toys.bright)
    ranked, alone = (
        search(key, one, each, prompts) for each in (both, problem(total(), toys.bright))
    )
    np.testing.assert_array_equal(ranked.particle.x, alone.particle.x)
    np.testing.assert_array_equal(ranked.scores[:, 0], alone.scores[:, 0])
    np.testing.assert_array_equal(ranked.cost.network_passes, alone.cost.network_passes)


def test_a_compromise_is_ranked_among_all_that_it_is_compared_with():
    """By hand, an elitist pivot of [3, 3] by guide: it stays where it is the best of all.

    Kills: a mean rank without the pivot; the pivot's own sum; the first guide's rank alone.
    """
    one = zero_order(neighbours=3, iterations=1, elitist=True)
    problem_ = problem(mean_rank(), solver="ddim")
    space = noise_space(problem_, one.rank)
    _, climb = one.stages(space)
    for scores, stays in (
        ([[9.0, 0.0], [0.0, 2.0], [1.0, 1.0]], True),  # 1 + 0, 0 + 2/3, 1/3 + 1/3; pivot 2/3 + 1
        ([[9.0, 0.0], [4.0, 4.0], [1.0, 1.0]], False),
        ([[4.0, 2.0], [0.0, 9.0], [1.0, 1.0]], True),  # 1 + 1/3, 0 + 1; pivot 2/3 + 2/3: no better
    ):
        state = one.init(space, jax.random.key(0))._replace(scores=jnp.asarray([3.0, 3.0]))
        proposal = climb.ask(jax.random.key(1), jnp.int32(0), state)
        score = jnp.asarray(scores, jnp.float32)
        evaluation = Evaluation(proposal.parent, mean_rank().combine(score), score)
        after = climb.tell(jax.random.key(2), jnp.int32(0), state, proposal, evaluation)
        np.testing.assert_array_equal(after.scores, [3.0, 3.0] if stays else [4.0, 4.0])


def test_one_failed_guide_fails_the_candidate():
    """Kills: a rank that is finite although a guide returned NaN."""
    scores = jnp.asarray([[[0.9, -jnp.inf], [0.1, 0.1], [0.2, 0.2]]])
    for aggregate in (total(), mean_rank(), worst(), weighted(weights=[1.0, 0.0])):
        found = np.asarray(combined(problem(aggregate), scores))[0]
        assert np.isneginf(found[0])
        assert found[2] > found[1]
    failing = problem(mean_rank(), toys.bright, toys.judge(value=np.nan, fraction=0.5))
    result = search(jax.random.key(1), best_of_n(candidates=8), failing, toys.prompts(4))
    assert np.all(np.isfinite(np.asarray(result.scores)))


def test_what_makes_no_sense_is_refused():
    key, prompts = jax.random.key(0), toys.prompts(2)
    with pytest.raises(ValueError, match="3 weights for 2 guides"):
        search(key, best_of_n(), problem(weighted(weights=[1, 2, 3])), prompts)
    with pytest.raises(ValueError, match="weights is nan"):
        weighted(weights=[np.nan])
    for one, why in (
        (mcts(), "mcts adds up the scores of all rounds"),
        (smc(), "smc weighs particles by the scores of all rounds"),
        (markov_chain(), "markov_chain accepts a move by how much higher it scores"),
        (early_stop(best_of_n(), threshold=0.5), "best_of_n with early_stop holds scores against"),
    ):
        with pytest.raises(ValueError, match=f"{why}.* but mean_rank says only"):
            search(key, one, problem(mean_rank()), prompts)


def test_objective_takes_the_sum_by_default():
    assert Objective(decoder=toys.decoder(), verifiers=(toys.bright,)).aggregate is total()
