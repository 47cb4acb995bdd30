"""What a search will cost, before any of it runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsearch.core.evaluate import evaluate
from jaxsearch.core.flops import count_flops
from jaxsearch.core.liveness import peak_bytes
from jaxsearch.core.search import search, start
from jaxsearch.core.space import noise_space, stages_of
from jaxsearch.core.types import (
    ESTIMATE,
    Aggregate,
    Array,
    Cost,
    Decoder,
    Denoiser,
    Objective,
    Prediction,
    Problem,
    Process,
    Prompts,
    PyTree,
    Searcher,
    Solver,
    Value,
    Verifier,
)

# A way back: about two forward passes of products, and the forward pass that is computed again.
_FLOPS_OF_BACKWARD = 3


class StagePlan(NamedTuple):
    """One stage of a search, per prompt."""

    rounds: int
    candidates: int  # K
    steps: int  # S, solver steps per round
    most_calls: Callable[[Sequence[int]], int] | None = None  # of the stage
    differentiated: bool = False  # whether every pass is followed by a backward one


class Memory(NamedTuple):
    """Bytes that a search needs, all prompts together; what a compiler makes of them is unknown."""

    weights: int  # denoiser, decoder and verifiers
    state: int  # between rounds
    proposals: int  # the largest round's
    images: int  # of one microbatch
    activations: int  # inside the models, of one microbatch, as `peak_bytes` has them

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Flops(NamedTuple):
    """Floating-point operations of one call on one latent or image, as `count_flops` has them."""

    network_pass: float
    decode: float
    verifier_call: float  # the mean of the objective's verifiers

    def of(self, cost: Cost) -> float:
        """Those of a cost."""
        passes = int(cost.network_passes) + _FLOPS_OF_BACKWARD * int(cost.backward_passes)
        calls = int(cost.verifier_calls)
        return (
            self.network_pass * passes
            + self.decode * int(cost.decodes)
            + self.verifier_call * calls
        )


class Plan(NamedTuple):
    """The price of a search."""

    cost: Cost  # int, of one prompt
    stages: tuple[StagePlan, ...]
    particles: int  # largest number of particles alive in one round, all prompts together
    memory: Memory
    flops_per_call: Flops
    flops: float  # of all passes, their ways back, decodes and verifiers, all prompts together

    @property
    def rounds(self) -> int:
        """`R`, rounds of the whole search."""
        return sum(stage.rounds for stage in self.stages)


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# Functions of the module and not of a call, so that the program that counts is compiled once.
def _no_network(params: PyTree, x: Array, t: Array, cond: PyTree) -> Prediction:
    return Prediction(jnp.zeros_like(x), jnp.zeros_like(x))


# Zero times what they are given, so that a searcher that climbs gradients finds some.
def _no_decoder(params: PyTree, latents: Array) -> Array:
    return 0.0 * latents.reshape((latents.shape[0], 1, 1, 1))


def _no_verifier(params: PyTree, images: Array, context: dict[str, Array]) -> Array:
    return 0.0 * images[:, 0, 0, 0]


def _key_shape() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))  # nothing is drawn


def count_cost(searcher: Searcher, problem: Problem) -> Cost:
    """The cost of one prompt, int: the search itself, run on a latent of one number.

    Everything but the models is the real thing, so the count cannot drift from what a search does.
    A searcher whose spending depends on the scores is counted for constant scores.
    """
    denoiser, objective = problem.denoiser, problem.objective
    # What a verifier needs of its sampler costs something; what it needs of a prompt does not.
    needs = tuple(
        tuple(need for need in one.needs if need == ESTIMATE) for one in objective.verifiers
    )
    latent = (denoiser.process, len(denoiser.shape), denoiser.passes)
    return _count(searcher, problem.solver, problem.value, objective.aggregate, *latent, needs)


@functools.lru_cache(maxsize=256)
def _count(
    searcher: Searcher,
    solver: Solver,
    value: Value,
    aggregate: Aggregate,
    process: Process,
    axes: int,
    passes: int,
    needs: tuple[tuple[str, ...], ...],
) -> Cost:
    toy = Problem(
        denoiser=Denoiser(apply=_no_network, process=process, shape=(1,) * axes, passes=passes),
        objective=Objective(
            decoder=Decoder(apply=_no_decoder),
            verifiers=tuple(
                Verifier(name=str(i), apply=_no_verifier, needs=need)
                for i, need in enumerate(needs)
            ),
            aggregate=aggregate,
        ),
        solver=solver,
        value=value,
    )
    # No number drawn here has any effect, so the key is nobody's choice.
    arguments = (jax.random.key(0), toy, Prompts(jnp.zeros((1,), jnp.int32)))
    lowered = search.lower(arguments[0], searcher, *arguments[1:])
    # It runs once, on next to nothing: the time is that of compiling.
    program = lowered.compile(compiler_options={"xla_backend_optimization_level": "0"})
    spent = program(*arguments).cost
    return Cost(*(int(field[0]) for field in spent))


def most_network_passes(searcher: Searcher, problem: Problem) -> int:
    """The network passes, backward ones too, that a search of one prompt can spend at most.

    For a searcher that is not adaptive they are those it spends. For others a stage says it, or
    every candidate of every round is taken to go all its steps where they are dearest.
    """
    if not searcher.adaptive:
        cost = count_cost(searcher, problem)
        return int(cost.network_passes) + int(cost.backward_passes)
    solver = problem.solver
    beside = problem.value.most_calls(solver)
    calls = 0
    for stage in stage_plans(searcher, problem):
        calls += stage.rounds * stage.candidates * beside
        if stage.most_calls is not None:
            calls += stage.most_calls(solver.calls)
            continue
        span = range(max(solver.num_steps - stage.steps, 0) + 1)
        dearest = max(sum(solver.calls[begin : begin + stage.steps]) for begin in span)
        calls += stage.rounds * stage.candidates * dearest * (2 if stage.differentiated else 1)
    return calls * problem.denoiser.passes


def _images(decoder: Decoder, latents: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """The shape of what a decoder makes; shapes are enough for its weights."""
    return jax.eval_shape(lambda decoder, latents: decoder(latents), decoder, latents)


class _Calls(NamedTuple):
    """A function and its arguments for each call of a model, on one latent or image."""

    network: tuple[tuple[Any, ...], ...]
    decoder: tuple[tuple[Any, ...], ...]
    verifiers: tuple[tuple[Any, ...], ...]


def _calls(problem: Problem, prompts: Prompts, reports: tuple[Verifier, ...] = ()) -> _Calls:
    denoiser, objective = problem.denoiser, problem.objective
    latent = jax.ShapeDtypeStruct((1, *denoiser.shape), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    one = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype),
        (prompts.cond, prompts.context),
    )
    images = _images(objective.decoder, latent)
    context = {**one[1], ESTIMATE: images}

    def call(model: Callable[..., Any], *arguments: Any) -> Any:
        return model(*arguments)

    return _Calls(
        ((call, denoiser, latent, time, one[0]),),
        ((call, objective.decoder, latent),),
        tuple((call, one, images, context) for one in (*objective.verifiers, *reports)),
    )


def flops(problem: Problem, prompts: Prompts) -> Flops:
    """The operations of the models of a problem, from shapes alone."""
    calls = _calls(problem, prompts)
    judged = [count_flops(*one) for one in calls.verifiers]
    return Flops(
        count_flops(*calls.network[0]) / problem.denoiser.passes,
        count_flops(*calls.decoder[0]),
        math.fsum(judged) / max(len(judged), 1),
    )


class _Proposals(NamedTuple):
    stages: tuple[StagePlan, ...]
    bytes: int


def _proposals(searcher: Searcher, problem: Problem) -> _Proposals:
    space = noise_space(problem, searcher.rank, searcher.renoisings)
    key = _key_shape()
    state = jax.eval_shape(lambda k: searcher.init(space, k), key)
    stages, largest = [], 0
    for stage in (turn for one in stages_of(searcher, problem) for turn in one.turns):
        proposal = jax.eval_shape(stage.ask, key, jnp.int32(0), state)
        candidates, steps = proposal.noise.coefs.shape[:2]
        stages.append(
            StagePlan(stage.rounds, candidates, steps, stage.most_calls, stage.gradient is not None)
        )
        largest = max(largest, _bytes(proposal))
    return _Proposals(tuple(stages), largest)


def stage_plans(searcher: Searcher, problem: Problem) -> tuple[StagePlan, ...]:
    """The rounds, candidates and steps of each stage of a search.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    return _proposals(searcher, problem).stages


def num_particles(searcher: Searcher, problem: Problem, prompts: Prompts) -> int:
    """The largest number of particles alive in one round, all prompts together."""
    candidates = max(stage.candidates for stage in stage_plans(searcher, problem))
    return prompts.ids.shape[0] * candidates


def memory(
    searcher: Searcher,
    problem: Problem,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    reports: tuple[Verifier, ...] = (),
) -> Memory:
    """The bytes that a search needs at least, from shapes alone.

    Args:
        searcher: as of `search`, like the next two.
        problem: what is searched.
        prompts: [P].
        microbatch: particles run at once.
        reports: verifiers that judge what is found, as many at once.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    num_prompts = prompts.ids.shape[0]
    proposals = _proposals(searcher, problem)
    particles = num_prompts * max(stage.candidates for stage in proposals.stages)
    at_once = min(microbatch or particles, particles)
    latents = (at_once, *problem.denoiser.shape)
    decoder = problem.objective.decoder
    return Memory(
        weights=_bytes((problem.denoiser, problem.objective, reports)),
        state=_bytes(jax.eval_shape(lambda k: start(k, searcher, problem, prompts), _key_shape())),
        proposals=num_prompts * proposals.bytes,
        images=_bytes(_images(decoder, jax.ShapeDtypeStruct(latents, jnp.float32))),
        activations=at_once * _activations(searcher, problem, prompts, reports),
    )


def _activations(
    searcher: Searcher, problem: Problem, prompts: Prompts, reports: tuple[Verifier, ...]
) -> int:
    """The most bytes inside a model, of one particle."""
    calls = _calls(problem, prompts, reports)
    largest = max(peak_bytes(*call) for one in calls for call in one)
    space = noise_space(problem, searcher.rank, searcher.renoisings)
    state = jax.eval_shape(lambda k: searcher.init(space, k), _key_shape())
    for stage in (turn for one in stages_of(searcher, problem) for turn in one.turns):
        if stage.gradient is None:
            continue
        # What a way back keeps hangs on all that is between noise and score.
        proposal = jax.eval_shape(stage.ask, _key_shape(), jnp.int32(0), state)
        one = jax.tree.map(lambda leaf: _alone(leaf, 1, 1), proposal)
        climb = functools.partial(evaluate, gradient=stage.gradient)
        asked = jax.tree.map(lambda leaf: _alone(leaf, 1), prompts)
        largest = max(largest, peak_bytes(climb, problem, one, asked))
    return largest


def _alone(leaf: Array, *leading: int) -> jax.ShapeDtypeStruct:
    """The shape of one particle: an array [P, ...] as [1, ...], or [K, ...] as [1, 1, ...]."""
    return jax.ShapeDtypeStruct((*leading, *leaf.shape[1:]), leaf.dtype)


def fitting(needed: Memory, particles: int, limit: int, devices: int = 1) -> int | None:
    """How many particles to run at once, for what a search needs with all of them at once.

    Args:
        needed: by all particles at once.
        particles: how many there are.
        limit: bytes of one device.
        devices: that particles are divided among; weights and state are on each.

    Returns:
        A power of two times the devices, at least one on each; None where all fit.
    """
    # A compiler needs room for copies, and an estimate is an estimate: the rest is left free.
    free = 0.8 * limit - needed.weights - needed.state - needed.proposals
    each = 1.5 * (needed.images + needed.activations) / particles
    own = max(int(free / each), 1)
    if own * devices >= particles:
        return None
    return devices * 2 ** (own.bit_length() - 1)


def plan(
    searcher: Searcher, problem: Problem, prompts: Prompts, *, microbatch: int | None = None
) -> Plan:
    """The price of searching these prompts; no network, decoder or verifier runs.

    Raises:
        ValueError: if the searcher cannot work with the solver.
    """
    num_prompts = prompts.ids.shape[0]
    stages = stage_plans(searcher, problem)
    cost = count_cost(searcher, problem)
    per_call = flops(problem, prompts)
    return Plan(
        cost=cost,
        stages=stages,
        particles=num_particles(searcher, problem, prompts),
        memory=memory(searcher, problem, prompts, microbatch=microbatch),
        flops_per_call=per_call,
        flops=per_call.of(cost) * num_prompts,
    )
