"""Search over paths against a search written out in NumPy, and replay of samples that went back."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import take
from jaxsearch.core.plan import count_cost, stage_plans
from jaxsearch.core.process import edm, flow, karras, shifted
from jaxsearch.core.replay import plain_noise, replay, sample
from jaxsearch.core.search import result_of, search, search_in_chunks, start
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import (
    Evaluation,
    Legs,
    Noise,
    Schedule,
    SearchResult,
    SearchState,
)
from jaxsearch.core.value import lookahead
from jaxsearch.runs.checkpoint import Checkpoints
from jaxsearch.runs.recipes import read_recipes, write_recipes
from jaxsearch.searchers import paths
from jaxsearch.solvers import first_order, heun
from tests import cases, toys

KEY = jax.random.key(4)
# Where the paths stand, go back to and are scored in each round, by rounds of unequal length: 4 of
# the 6 steps are left, then 2.6 and 1.2, which are 3 and 1.
SEARCHER = paths(paths=3, candidates=2, level=4.0, forward=1.0, backward=2.4, unit="steps")
ROUNDS = ((2, 1, 3), (3, 2, 5), (5, 4, 6))


def problem(solver: str):
    return toys.linear_problem(cases.solvers()[solver], value=lookahead())


@functools.cache
def states(solver: str) -> list[SearchState]:
    """A search of two prompts after each of its rounds."""
    return list(
        search_in_chunks(KEY, SEARCHER, problem(solver), toys.prompts(2), rounds_per_chunk=1)
    )


# ------------------------------------------------------------------------------ levels and counts


def one_path(schedule: Schedule, **settings) -> tuple[list[tuple[int, int]], SearchResult]:
    """(where it was left, where it went back to) of one path's legs, and the result."""
    one = paths(paths=1, candidates=1, **settings)
    problem_ = toys.problem(first_order(schedule, eta=0.0), value=lookahead())
    result = search(KEY, one, problem_, toys.prompts(1))
    legs = result.particle.legs
    return list(zip(legs.end[0].tolist(), legs.back[0].tolist(), strict=True)), result


def test_the_published_levels():
    """0.11, 0.89, 0.08, 0.86, 0.05, 0.83, 0.02, 0.80, 0 in the time of a straight path.

    Kills: ratios taken for times; a level renoised from where the path no longer is; a round too
    few, or one too many from a level that differs from 0 by rounding.
    """
    schedule = shifted(flow(), num_steps=100)
    steps, result = one_path(schedule, level=0.11, forward=0.78, backward=0.81)
    levels = [schedule.times[step] for leg in steps for step in leg]
    np.testing.assert_allclose(levels, [0.11, 0.89, 0.08, 0.86, 0.05, 0.83, 0.02, 0.80], atol=1e-9)
    # 89 steps down, three times 81 and once 80; a lookahead wherever it was not finished.
    taken = 89 + 3 * 81 + 80
    assert [int(field[0]) for field in result.cost][:4] == [taken + 4, taken, 5, 5]
    even, _ = one_path(schedule, level=0.09, forward=0.78, backward=0.81)
    assert even == [(91, 13), (94, 16), (97, 19)]


def test_levels_as_ratios():
    """On a schedule that does not have all of them, by the nearest there is."""
    schedule = karras(edm(), num_steps=8, sigma_min=0.1, sigma_max=8.0, rho=3.0)
    ratios = schedule.sigma / schedule.alpha
    found, _ = one_path(schedule, level=0.8, forward=4.0, backward=4.5, unit="sigma")
    wanted = [(0.8, 4.8), (0.3, 4.3)]
    assert found == [tuple(int(np.argmin(abs(ratios - r))) for r in leg) for leg in wanted]


def test_defaults_fit_the_usual_schedules():
    problems = [
        toys.problem(heun(karras(edm()))),
        toys.problem(first_order(shifted(flow()))),
        toys.problem(cases.solvers()["ddim"]),
    ]
    for problem_ in problems[:2]:
        assert [stage.rounds for stage in stages_of(paths(), problem_)] == [1, 2]
    with pytest.raises(ValueError, match="fall on the same solver step"):
        stages_of(paths(), problems[2])


def test_counts():
    """N*M candidates go the steps of each round, every one is scored, and nothing else is charged.

    Kills: the longest round charged for each; a lookahead at the end; a Heun step counted once.
    """
    solver = heun(karras(edm(), num_steps=18))
    steps = 2 * 13 + 8 * (14 - 6) + 8 * (18 - 7)
    cost = count_cost(paths(), toys.problem(solver))
    assert cost[:4] == (2 * steps - 8, steps, 2 + 8 + 8, 2 + 8 + 8)
    cost = count_cost(paths(), toys.problem(solver, value=lookahead()))
    assert cost.network_passes == 2 * steps - 8 + 2 + 8
    assert [plan[:3] for plan in stage_plans(paths(), toys.problem(solver))] == [
        (1, 2, 13),
        (2, 8, 11),
    ]


# ------------------------------------------------------------------------------------ written out


class Walk(NamedTuple):
    """A partial sample of the search written out."""

    x: np.ndarray
    parent: int
    legs: list[tuple[int, int, list]]  # end, back, the keys of its noises
    keys: list  # of the noises injected since


def normal(key) -> np.ndarray:
    return np.asarray(jax.random.normal(key, toys.LINEAR_SHAPE), np.float64)


def written_out(solver: str, prompt: int):
    """The paths of one prompt after each round, best first, and its best sample."""
    one = cases.solvers()[solver]
    affine, schedule = toys.affine(one), one.schedule
    assert np.all(affine.slope > 0)  # so that the latents' mean orders what is scored
    prompt_key = jax.random.fold_in(KEY, prompt)

    def went(walk: Walk, key, begin: int, end: int) -> Walk:
        x, keys = walk.x, list(walk.keys)
        for step in range(begin, end):
            keys.append(jax.random.fold_in(key, step + 1))
            x = affine.a[step] * x + affine.b[step] + affine.c[step] * normal(keys[-1])
        return walk._replace(x=x, keys=keys)

    def back(walk: Walk, place: int, key, end: int, begin: int) -> Walk:
        ratio = schedule.alpha[begin] / schedule.alpha[end]
        spread = np.sqrt(schedule.sigma[begin] ** 2 - (ratio * schedule.sigma[end]) ** 2)
        first = jax.random.fold_in(key, 0)
        legs = [*walk.legs, (end, begin, [first, *walk.keys])]
        return Walk(ratio * walk.x + spread * normal(first), place, legs, [])

    kept = []
    for number in range(3):
        key = jax.random.fold_in(jax.random.fold_in(prompt_key, 0), number)
        root = affine.prior * normal(jax.random.fold_in(key, 0))
        kept.append(went(Walk(root, number, [], []), key, 0, ROUNDS[0][0]))
    yield kept
    for round_, (begin, middle, end) in enumerate(ROUNDS, 1):
        key = jax.random.fold_in(prompt_key, 2 * round_ + 1)
        candidates = []
        for number in range(2 * 3):
            own = jax.random.fold_in(key, number)
            parent = number % 3
            candidates.append(
                went(back(kept[parent], parent, own, begin, middle), own, middle, end)
            )
        kept = sorted(candidates, key=lambda walk: -walk.x.mean())[:3]
        yield kept


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_it_is_the_search_written_out(solver):
    """Paths, their order and all their noises after every round, and the best sample, of each
    prompt alone; with a solver that injects noise and with one that does not.

    Kills: a candidate of the next path, or with its legs; a renoising with another coefficient or
    from another level; the worst kept, or the best of each path instead of all; the noises of a
    round used again in the next.
    """
    strangers = 0
    active = np.asarray(cases.solvers()[solver].active)
    for prompt in range(2):
        for state, walks in zip(states(solver), written_out(solver, prompt), strict=True):
            for place, walk in enumerate(walks):
                path = take(state.searcher.paths, (prompt, place))
                np.testing.assert_allclose(path.x, walk.x, atol=1e-5)
                strangers += walk.parent != place
                went = len(walk.legs)
                assert path.legs.end[3 - went :].tolist() == [leg[0] for leg in walk.legs]
                assert path.legs.back[3 - went :].tolist() == [leg[1] for leg in walk.legs]
                begin = 0
                for leg, (end, back, keys) in zip(range(3 - went, 3), walk.legs, strict=True):
                    rows = np.asarray([True, *(active & (np.arange(6) >= begin))[:end]])
                    check_keys(take(path.legs.noise, leg), rows, [keys[0], *keys[1:]], begin)
                    begin = back
                rows = np.asarray([False, *(active & (np.arange(6) >= begin))[: int(path.step)]])
                check_keys(path.noise, rows, [None, *walk.keys], begin)
        np.testing.assert_allclose(state.best.x[prompt], walks[0].x, atol=1e-5)
        np.testing.assert_allclose(state.score[prompt], walks[0].x.mean(), atol=1e-5)
    assert strangers > 5  # or the test would not see a wrong parent


def check_keys(noise: Noise, rows: np.ndarray, keys: list, begin: int) -> None:
    """That a leg's noises are those of `rows`; `keys` are row 0's and those from `begin` on."""
    expected = {0: keys[0], **{begin + 1 + number: key for number, key in enumerate(keys[1:])}}
    for row in range(1, noise.coefs.shape[0]):
        used = row < len(rows) and rows[row]
        assert bool(noise.coefs[row, 0]) == bool(used)
    for row in np.flatnonzero(rows):
        np.testing.assert_array_equal(
            jax.random.key_data(noise.keys[row, 0]), jax.random.key_data(expected[int(row)])
        )


def told(scores) -> list[int]:
    """Which of 6 candidates of 3 paths go on, by their scores."""
    problem_ = problem("ddim")
    space = noise_space(problem_, 1, SEARCHER.renoisings)
    stage = stages_of(SEARCHER, problem_)[1]
    state = SEARCHER.init(space, KEY)
    proposal = jax.eval_shape(stage.ask, KEY, jnp.int32(0), state)
    child = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), state.paths)
    assert jax.tree.structure(child) == jax.tree.structure(proposal.parent)
    names = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], child.x.shape)
    score = jnp.asarray(scores, jnp.float32)
    evaluation = Evaluation(child._replace(x=names), score, score[:, None])
    after = stage.tell(KEY, jnp.int32(0), state, proposal, evaluation)
    return [int(name) for name in after.paths.x[:, 0, 0, 0]]


def test_equal_scores_go_to_different_paths():
    """Candidates m of path n are number 3m + n, so the first of equals have one path each; what
    failed goes on only where nothing else is left."""
    assert told([0.5] * 6) == [0, 1, 2]
    assert told([-np.inf] * 6) == [0, 1, 2]
    assert told([-np.inf, 0.1, 0.3, -np.inf, 0.2, 0.0]) == [2, 4, 1]
    assert told([-np.inf] * 5 + [0.1]) == [5, 0, 1]


# ----------------------------------------------------------------------------------------- replay


def numbers(tree) -> list[np.ndarray]:
    """Leaves as NumPy arrays, keys as their data."""
    return [
        np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for leaf in jax.tree.leaves(tree)
    ]


def assert_same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(numbers(one), numbers(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_a_recipe_is_enough(solver, tmp_path: Path):
    """The sample is made from what is on disk, and has the legs that it was made of.

    Kills: a leg lost, gone twice or in another order; a leg's noises taken from its first row
    instead of where it begins; the last leg begun at the root; the lineage of another candidate.
    """
    best = states(solver)[-1].best
    write_recipes(tmp_path / "recipes", best.noise, [0, 1], ["a", "b"], legs=best.legs)
    noise, legs = read_recipes(tmp_path / "recipes")
    again = replay(problem(solver), noise, toys.prompts(2), legs=legs)
    np.testing.assert_allclose(again.x, best.x, atol=2e-6)
    assert_same(again.legs.noise.coefs, best.legs.noise.coefs)
    assert_same((again.legs.end, again.legs.back), (best.legs.end, best.legs.back))
    halves = replay(problem(solver), noise, toys.prompts(2), legs=legs, microbatch=1)
    np.testing.assert_allclose(halves.x, best.x, atol=2e-6)
    for leg in range(3) if solver == "ddim" else ():  # one with noise forgets where it was
        lost = legs.noise.coefs.at[:, leg, 0].set(0.0)
        other = legs._replace(noise=legs.noise._replace(coefs=lost))
        other = replay(problem(solver), noise, toys.prompts(2), legs=other)
        assert np.all(np.any(np.abs(np.asarray(other.x - best.x)) > 1e-3, axis=(1, 2, 3)))


def test_what_was_never_renoised_replays_beside_what_was():
    """Legs that nobody went cost nothing and change nothing, whoever is beside them."""
    best, problem_ = states("ddpm")[-1].best, problem("ddpm")
    plain = plain_noise(KEY, problem_, toys.prompts(2))
    expected = sample(KEY, problem_, toys.prompts(2))

    def mixed(first, second):
        return jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), first, second)

    never = jax.tree.map(jnp.zeros_like, (best.legs.end, best.legs.back))
    coefs = jnp.zeros_like(best.legs.noise.coefs)
    never = Legs(best.legs.noise._replace(coefs=coefs), *never)
    again = replay(
        problem_, mixed(plain, best.noise), toys.prompts(2), legs=mixed(never, best.legs)
    )
    np.testing.assert_allclose(again.x[0], expected.x[0], atol=2e-6)
    np.testing.assert_allclose(again.x[1], best.x[1], atol=2e-6)


def test_a_checkpoint_carries_the_legs(tmp_path: Path):
    """Taken up from disk between two renoisings, the search ends with the same bits."""
    arguments = (SEARCHER, problem("ddpm"), toys.prompts(2))
    shapes = jax.eval_shape(lambda k: start(k, *arguments), KEY)
    saving = Checkpoints(tmp_path / "checkpoint", 0.0)
    saving.save(states("ddpm")[1], 0.0)
    saving.wait()
    restored, _ = Checkpoints(tmp_path / "checkpoint", 0.0).restore(lambda: shapes)
    *_, last = search_in_chunks(KEY, *arguments, rounds_per_chunk=5, state=restored)
    assert_same(result_of(last), result_of(states("ddpm")[-1]))


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": 0}, "paths is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"level": 0.0}, "level is 0.0"),
        ({"level": float("nan")}, "level is nan"),
        ({"forward": -0.1}, "forward is -0.1"),
        ({"backward": 0.78}, r"backward is 0.78: it must lie in \(0.78, inf\)"),
        ({"unit": "steps left"}, "unknown unit 'steps left': take 'time', 'sigma' or 'steps'"),
        ({"backward": 0.78 + 1e-9}, "the number of rounds, is"),
        ({"level": 1e9, "forward": 1e-310, "backward": 2e-310}, "the number of rounds, is inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        paths(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backward": 0.81}, "noise levels 0.08 and 0.05 .time. fall on the same solver step"),
        ({"level": 0.05, "backward": 0.84}, "noise levels 0.05 and 0 .time. fall on the same"),
        ({"level": 0.3, "backward": 0.8}, "level . forward is 1.08 .time., more noise"),
        ({"level": 0.5, "forward": 0.05, "backward": 1.0}, "leads to no earlier solver step"),
        ({"level": 6.0, "forward": 0.3, "backward": 1.3, "unit": "steps"}, "more noise"),
        ({"backward": 0.781}, "110 rounds do not begin at 6 different steps"),
    ],
)
def test_schedules_that_do_not_have_the_levels_are_refused(settings, message):
    """In one line that lists the levels there are."""
    problem_ = toys.problem(cases.solvers()["flow_sde"])
    with pytest.raises(ValueError, match=message) as error:
        stages_of(paths(**settings), problem_)
    text = str(error.value)
    assert "\n" not in text
    listed = "6, 5, 4" if settings.get("unit") == "steps" else "1, 0.833, 0.667"
    assert f"levels are {listed}" in text
