"""Gradients of scores: against finite differences, counted, refused, and of little memory."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxsearch.core.aggregate import mean_rank
from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.host import search_on_host
from jaxsearch.core.noise import add_term, fresh_trajectory, realise, take
from jaxsearch.core.random import fold_in
from jaxsearch.core.search import search
from jaxsearch.core.space import noise_space
from jaxsearch.core.types import Decoder, Denoiser, Prediction, Proposal, Verifier
from jaxsearch.core.value import lookahead
from jaxsearch.searchers import gradient
from jaxsearch.verifiers import compressibility
from tests import cases, toys

NUM_PROMPTS, NUM_CANDIDATES = 2, 3
PROMPTS = toys.prompts(NUM_PROMPTS)
INNER = (2, 3, 4, 5)  # the axes of a candidate's noises [P, K, S + 1, *E]


def problem(solver: str = "heun_edm", **rest):
    return toys.problem(cases.solvers()[solver], **rest)


@functools.cache
def noises(num_steps: int = cases.NUM_STEPS) -> jax.Array:
    """[P, K, S + 1, *E] of no recipe."""
    shape = (NUM_PROMPTS, NUM_CANDIDATES, num_steps + 1, *toys.SHAPE)
    return jax.random.normal(jax.random.key(5), shape)


def proposal_of(problem_, values: jax.Array) -> Proposal:
    """Whole trajectories with these noises [P, K, S + 1, *E]."""
    space = noise_space(problem_, 1)
    keys = fold_in(jax.random.key(0), jnp.arange(NUM_CANDIDATES))
    one = jax.vmap(functools.partial(fresh_trajectory, space))(keys)
    recipes = jax.tree.map(lambda leaf: jnp.stack([leaf] * NUM_PROMPTS), one)
    root = space.root(take(recipes, (slice(None), slice(None), 0)), values[:, :, 0])
    injected = take(recipes, (slice(None), slice(None), slice(1, values.shape[2])))
    return Proposal(root, injected, values[:, :, 1:])


@functools.partial(jax.jit, static_argnames=("gradient", "microbatch", "mesh"))
def evaluated(problem_, values, *, gradient=None, microbatch=None, mesh=None, steps=None):
    proposal = proposal_of(problem_, values)._replace(steps=steps)
    return evaluate(
        problem_, proposal, PROMPTS, gradient=gradient, microbatch=microbatch, mesh=mesh
    )


def slope_along(problem_, values: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The directions [P, K, ...] at length 1, and the slope of the scores along them.

    By differences of fourth order, since the mixture changes its mode within a short way.
    """
    length = jnp.sqrt(jnp.sum(direction**2, axis=INNER, keepdims=True))
    along = direction / jnp.maximum(length, 1e-12)  # the flow's SDE forgets where it began
    step = 0.015
    near, far = (
        evaluated(problem_, values + s * along)[0].score
        - evaluated(problem_, values - s * along)[0].score
        for s in (step, 2 * step)
    )
    return along, (8 * near - far) / (12 * step)


# Scores have rounding errors of 6e-8 and more, divided by the step.
CLOSE = {"rtol": 3e-3, "atol": 1e-5}


@pytest.mark.parametrize("solver", list(cases.solvers()))
def test_gradients_are_finite_differences(solver):
    """By each noise of each candidate, along itself and along a random direction.

    Kills: the scale of the initial noise left out; rows of injected noises off by one; the gradient
    of another candidate; a gradient by a noise that has no effect.
    """
    problem_, values = problem(solver), noises()
    by = np.asarray(evaluated(problem_, values, gradient="all")[0].gradient)
    assert by.shape == values.shape
    active = (True, *cases.solvers()[solver].active)
    random = jax.random.normal(jax.random.key(6), values.shape)
    for direction in (jnp.asarray(by), random):
        for row in range(values.shape[2]):
            if not active[row]:
                np.testing.assert_array_equal(by[:, :, row], 0.0)
                continue
            of_row = jnp.zeros_like(values).at[:, :, row].set(direction[:, :, row])
            along, slope = slope_along(problem_, values, of_row)
            np.testing.assert_allclose(np.sum(by * np.asarray(along), axis=INNER), slope, **CLOSE)
    assert np.abs(by).max(axis=INNER).min() > 1e-3


@pytest.mark.parametrize("value", [None, lookahead()])
def test_a_partial_sample_has_the_gradient_of_its_estimate(value):
    """Three steps of six, with and without a pass for the estimate."""
    problem_ = problem() if value is None else problem(value=value)
    values = noises(3)
    found, cost = evaluated(problem_, values, gradient="all")
    # Two calls a step, and the estimate's.
    calls = NUM_CANDIDATES * (6 if value is None else 7)
    np.testing.assert_array_equal(cost.network_passes, calls)
    np.testing.assert_array_equal(cost.backward_passes, calls)
    along, slope = slope_along(problem_, values, found.gradient)
    np.testing.assert_allclose(jnp.sum(found.gradient * along, axis=INNER), slope, **CLOSE)


@pytest.mark.parametrize("of", ["initial", "all"])
def test_values_are_those_without_a_gradient(of):
    """Children, scores and the cost ahead. Kills: a scan that runs another sampler."""
    problem_, values = problem(), noises()
    plain, plain_cost = evaluated(problem_, values)
    found, cost = evaluated(problem_, values, gradient=of)
    np.testing.assert_allclose(found.child.x, plain.child.x, atol=1e-6)
    np.testing.assert_allclose(found.score, plain.score, atol=1e-6)
    assert plain.gradient is None
    assert np.all(np.asarray(plain_cost.backward_passes) == 0)
    np.testing.assert_array_equal(cost.backward_passes, plain_cost.network_passes)
    for one, other in zip(cost[:4], plain_cost[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    rows = found.gradient.shape[2]
    assert rows == {"initial": 1, "all": cases.NUM_STEPS + 1}[of]
    both = evaluated(problem_, values, gradient="all")[0].gradient
    np.testing.assert_allclose(found.gradient, both[:, :, :rows], atol=1e-7)


def test_devices_and_microbatches_do_not_matter():
    """Six particles by four on eight devices: padded, split and sharded at once.

    Kills: the gradient of another candidate; one of padding rows added.
    """
    problem_, values = problem(), noises()
    whole = evaluated(problem_, values, gradient="all")[0].gradient
    mesh = jax.make_mesh((8,), ("particle",), axis_types=(AxisType.Auto,))
    for rest in ({"microbatch": 4}, {"microbatch": 4, "mesh": mesh}):
        other = evaluated(problem_, values, gradient="all", **rest)[0].gradient
        np.testing.assert_allclose(other, whole, atol=1e-7, rtol=1e-5)


def test_recipes_have_the_gradient_of_what_they_draw():
    """Without `Proposal.value`: noises drawn along the way or beforehand."""
    problem_ = problem()
    drawn = proposal_of(problem_, noises())._replace(value=None)
    initial = realise(take(drawn.parent.noise, (slice(None), slice(None), 0)), toys.SHAPE)
    drawn = drawn._replace(parent=drawn.parent._replace(x=20.0 * initial))  # sigma_max
    injected = realise(drawn.noise, toys.SHAPE)
    values = jnp.concatenate([initial[:, :, None], injected], axis=2)
    expected = evaluated(problem_, values, gradient="all")[0].gradient
    for of, num in (("initial", 1), ("all", cases.NUM_STEPS + 1)):
        call = jax.jit(lambda of=of: evaluate(problem_, drawn, PROMPTS, gradient=of)[0].gradient)
        np.testing.assert_allclose(call(), expected[:, :, :num], atol=1e-6)


def test_a_free_part_is_added_and_handed_down():
    """`free` and the terms in their order; the rows of a child's lineage that were injected.

    Kills: the free part dropped where a recipe is realised, moved, rooted or handed down.
    """
    problem_ = problem()
    space = noise_space(problem_, 2)
    trajectory = fresh_trajectory(space, jax.random.key(1))
    free = jax.random.normal(jax.random.key(2), (cases.NUM_STEPS + 1, *toys.SHAPE))
    noise = trajectory._replace(free=free)
    np.testing.assert_array_equal(
        realise(noise, toys.SHAPE), free + realise(trajectory, toys.SHAPE)
    )
    moved = add_term(take(noise, 0), 1, jax.random.key(3), 0.5)
    np.testing.assert_array_equal(moved.free, free[0])

    prompts = toys.prompts(1)
    parent = jax.tree.map(lambda leaf: leaf[None, None], space.root(take(noise, 0)))
    x = 20.0 * realise(take(noise, 0), toys.SHAPE)  # sigma_max
    np.testing.assert_allclose(parent.x[0, 0], x, rtol=1e-6)
    for begin, end in ((0, 2), (2, 3)):
        injected = jax.tree.map(
            lambda leaf: leaf[None, None], take(noise, slice(begin + 1, end + 1))
        )
        parent = evaluate(problem_, Proposal(parent, injected), prompts)[0].child
        expected = jnp.where(jnp.arange(7).reshape((7, 1, 1, 1)) <= end, free, 0.0)
        np.testing.assert_array_equal(parent.noise.free[0, 0], expected)


def watched(denoiser: Denoiser) -> tuple[Denoiser, toys.Counter, toys.Counter]:
    """The denoiser, and what counts the rows of its calls and of those differentiated through."""
    ahead, back = toys.Counter(), toys.Counter()

    @jax.custom_vjp
    def mark(x, t):
        return x

    def mark_forward(x, t):
        return x, t

    def mark_backward(t, slope):
        jax.debug.callback(back.add, t)
        return slope, jnp.zeros_like(t)

    mark.defvjp(mark_forward, mark_backward)

    def apply(params, x, t, cond):
        jax.debug.callback(ahead.add, t)
        return denoiser.apply(params, mark(x, t), t, cond)

    return dataclasses.replace(denoiser, apply=apply), ahead, back


@pytest.mark.parametrize("rests", [False, True])
def test_backward_passes_are_those_that_happen(rests):
    """Each pass ahead is charged once, computed twice, and goes back once.

    Kills: backward passes not counted, those of resting candidates counted.
    """
    base = problem()
    denoiser, ahead, back = watched(base.denoiser)
    problem_ = dataclasses.replace(base, denoiser=denoiser)
    steps = jnp.full((NUM_PROMPTS, NUM_CANDIDATES), cases.NUM_STEPS)
    if rests:
        steps = steps.at[:, 0].set(0)
    found, cost = evaluated(problem_, noises(), gradient="all", steps=steps, microbatch=1)
    jax.block_until_ready(found)
    charged = int(np.sum(cost.network_passes))
    assert charged == NUM_PROMPTS * (NUM_CANDIDATES - rests) * (2 * cases.NUM_STEPS - 1)
    assert int(np.sum(cost.backward_passes)) == back.rows == charged
    assert ahead.rows == 2 * charged
    assert np.all(np.asarray(found.gradient[:, 0]) == 0) == rests
    assert np.all(np.any(np.asarray(found.gradient[:, 1:]) != 0, axis=INNER))


def _crooked(params, images, context):
    """NaN for some images, the root of a zero for others, whose slope is infinite."""
    first = images[:, 0, 0, 0]
    mean = jnp.mean(images, axis=(1, 2, 3))
    rooted = jnp.sqrt(jnp.where(first < 0.6, 0.0 * mean, 1.0 + mean))
    return jnp.where(first < 0.4, jnp.nan, rooted)


def test_what_is_no_number_moves_nothing():
    """Kills: a NaN handed to the searcher; one candidate's that spoils another's."""
    problem_ = problem(verifiers=(Verifier(name="crooked", apply=_crooked),))
    values = noises()
    found = evaluated(problem_, values, gradient="all")[0]
    first = np.asarray(jax.nn.sigmoid(found.child.x))[:, :, 0, 0, 0]
    assert np.all(np.isfinite(np.asarray(found.gradient)))
    moved = np.any(np.asarray(found.gradient) != 0, axis=INNER)
    np.testing.assert_array_equal(moved, first >= 0.6)
    np.testing.assert_array_equal(np.isneginf(np.asarray(found.score)), first < 0.4)
    assert 0 < np.sum(moved) < moved.size
    assert np.any(first < 0.4)


def _rounded(params, latents):
    return jnp.round(jax.nn.sigmoid(latents) * 255) / 255


BLIND = {
    "device": ({"verifiers": (toys.bright, compressibility())}, "verifier 'compressibility' has"),
    "host": ({"verifiers": (compressibility(path="host"),)}, "verifier 'compressibility' has"),
    "decoder": ({"decoder": Decoder(apply=_rounded)}, "the decoder has no gradient"),
    "ranks": ({"aggregate": mean_rank()}, "aggregate of a single candidate has no gradient"),
}


@pytest.mark.parametrize("what", list(BLIND))
def test_what_has_no_gradient_is_refused(what):
    """Kills: an ascent that stands still in silence, or follows only some of its guides."""
    changes, message = BLIND[what]
    base = problem()
    problem_ = dataclasses.replace(base, objective=dataclasses.replace(base.objective, **changes))
    with pytest.raises(ValueError, match=f"{message}.*zero_order or best_of_n"):
        search(jax.random.key(0), gradient(iterations=1), problem_, PROMPTS)
    plain = gradient(iterations=0)
    assert np.all(np.isfinite(search(jax.random.key(0), plain, problem_, PROMPTS).score))


def test_a_search_on_the_host_is_refused():
    """Kills: a stage that gets no gradient and fails somewhere inside."""
    score = lambda images, ids: np.ones(len(images))  # noqa: E731
    with pytest.raises(ValueError, match="gradient climbs gradients, and a score of the host"):
        next(search_on_host(jax.random.key(0), gradient(), problem(), PROMPTS, score))


def _wide(params, x, t, cond):
    hidden = jnp.tanh(x.reshape((x.shape[0], -1)) @ params["in"])
    moved = (jnp.sin(hidden) @ params["out"]).reshape(x.shape)
    return Prediction(0.5 * x + moved, 0.5 * x - moved)


def test_the_way_back_keeps_latents_and_no_networks():
    """Memory grows with a latent per step and not with a step's activations.

    Kills: steps that are not checkpointed.
    """
    width, num_pixels = 4096, int(np.prod(toys.SHAPE))
    params = {"in": jnp.ones((num_pixels, width)), "out": jnp.ones((width, num_pixels))}
    base = problem("ddim")
    denoiser = dataclasses.replace(base.denoiser, apply=_wide, params=params)
    problem_ = dataclasses.replace(base, denoiser=denoiser)

    def temporary(num_steps: int) -> int:
        compiled = evaluated.lower(problem_, noises(num_steps), gradient="all").compile()
        return compiled.memory_analysis().temp_size_in_bytes

    rows, numbers = NUM_PROMPTS * NUM_CANDIDATES, 4
    grown = (temporary(6) - temporary(2)) / 4
    assert grown < 0.2 * rows * width * numbers
