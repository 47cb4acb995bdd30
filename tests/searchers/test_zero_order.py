"""Zero-order search: the two published neighbourhoods, to the letter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import realise, take
from jaxsearch.core.search import search, start
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import Evaluation
from jaxsearch.searchers import zero_order
from tests import cases, toys

SHAPE = (8, 8, 3)


def setup(searcher):
    solver = cases.solvers()["ddim"]
    denoiser = toys.gaussian(0.0, 1.0, SHAPE, solver.schedule.process)
    problem = toys.problem(solver, denoiser=denoiser)
    space = noise_space(problem, searcher.rank)
    return space, stages_of(searcher, problem), problem


def climb(searcher, rounds: int, winner: int = 0):
    """Runs rounds whose `winner`th candidate scores best; returns pivots and proposals."""
    space, stages, _ = setup(searcher)
    state = searcher.init(space, jax.random.key(1))
    pivots, proposals = [state.value], []
    for index in range(rounds):
        proposal = stages[-1].ask(
            jax.random.fold_in(jax.random.key(2), index), jnp.int32(index), state
        )
        num = proposal.parent.x.shape[0]
        score = (jnp.arange(num) == winner).astype(jnp.float32)
        evaluation = Evaluation(proposal.parent, score, score[:, None])
        state = stages[-1].tell(jax.random.key(3), jnp.int32(index), state, proposal, evaluation)
        pivots.append(state.value)
        proposals.append(proposal)
    return space, state, pivots, proposals


def values(space, proposal):
    return realise(take(proposal.parent.noise, (slice(None), 0)), space.shape)


def test_cosine_neighbours_keep_norm_and_angle():
    """Kills: an unnormalised direction; the component along the pivot not removed."""
    cosine = 0.7
    one = zero_order(neighbours=5, iterations=4, step=cosine)
    space, _, pivots, proposals = climb(one, 4, winner=3)
    for pivot, proposal in zip(pivots[:-1], proposals, strict=True):
        for neighbour in np.asarray(values(space, proposal)):
            norms = np.linalg.norm(pivot), np.linalg.norm(neighbour)
            np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
            np.testing.assert_allclose(
                np.vdot(pivot, neighbour) / np.prod(norms), cosine, atol=1e-5
            )


def test_distance_neighbours_lie_at_the_distance():
    """Kills: a radius without sqrt(d); a direction of random length."""
    one = zero_order(neighbours=5, iterations=3, geometry="distance", step=0.3)
    space, _, pivots, proposals = climb(one, 3)
    for pivot, proposal in zip(pivots[:-1], proposals, strict=True):
        moves = np.asarray(values(space, proposal)) - np.asarray(pivot)
        lengths = np.linalg.norm(moves.reshape(5, -1), axis=1)
        np.testing.assert_allclose(lengths, 0.3 * np.sqrt(np.prod(SHAPE)), rtol=1e-5)
        directions = moves.reshape(5, -1) / lengths[:, None]
        off_diagonal = directions @ directions.T - np.eye(5)
        assert np.abs(off_diagonal).max() < 0.4  # independent directions in 192 dimensions


@pytest.mark.parametrize("geometry", ["cosine", "distance"])
def test_the_recipe_is_the_pivot(geometry):
    """The carried value and the recipe agree after many moves. Kills: a term in a wrong slot."""
    one = zero_order(neighbours=3, iterations=6, geometry=geometry, step=0.6)
    space, state, pivots, _ = climb(one, 6, winner=2)
    np.testing.assert_allclose(realise(state.pivot, space.shape), pivots[-1], atol=2e-5)
    assert int(jnp.sum(state.pivot.coefs != 0)) == 7


def test_the_best_neighbour_becomes_the_pivot():
    """Kills: the pivot taken from another candidate."""
    one = zero_order(neighbours=4, iterations=2)
    space, _, pivots, proposals = climb(one, 2, winner=2)
    np.testing.assert_allclose(values(space, proposals[0])[2], pivots[1], atol=1e-5)


def test_elitist_pivot_stays_until_beaten():
    """Kills: elitism ignored; a worse neighbour that replaces the pivot."""
    for elitist in (True, False):
        one = zero_order(neighbours=3, iterations=3, elitist=elitist)
        space, stages, _ = setup(one)
        assert len(stages) == 1 + elitist
        state = one.init(space, jax.random.key(1))._replace(scores=jnp.asarray([0.5]))
        for best, moves in ((0.4, not elitist), (0.6, True)):
            proposal = stages[-1].ask(jax.random.key(4), jnp.int32(0), state)
            score = jnp.asarray([best, 0.1, 0.2], jnp.float32)
            evaluation = Evaluation(proposal.parent, score, score[:, None])
            after = stages[-1].tell(jax.random.key(3), jnp.int32(0), state, proposal, evaluation)
            assert bool(jnp.any(after.value != state.value)) == moves


def test_first_elitist_round_is_the_plain_sample():
    one = zero_order(neighbours=2, iterations=1, elitist=True)
    _, _, problem = setup(one)
    prompts = toys.prompts(2)
    state = start(jax.random.key(0), one, problem, prompts)
    found = search(jax.random.key(0), one, problem, prompts)
    assert state.trace.best.shape[0] == 2
    assert np.all(found.trace.best[1] >= found.trace.best[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": 0}, "neighbours is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"step": 1.0}, r"step \(cosine\) is 1.0"),
        ({"geometry": "distance", "step": 0.0}, r"step \(distance\) is 0.0"),
        ({"geometry": "sphere"}, "'cosine' or 'distance'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        zero_order(**settings)
