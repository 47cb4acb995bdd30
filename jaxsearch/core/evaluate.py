"""The one place that runs models: it moves particles, decodes and scores them, and counts the cost.

Sharding, microbatching and cost accounting live here and nowhere else. Searchers propose per
prompt, `[P, K]`; here the two axes are one, `N = P*K`, and each particle knows its prompt by an
index, so conditioning is looked up inside a microbatch and never repeated `K` times.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxsearch.core.aggregate import compared
from jaxsearch.core.checks import check_count
from jaxsearch.core.early import num_decodes, with_estimate
from jaxsearch.core.gradients import Gradient, Outcome, differentiable, differentiate
from jaxsearch.core.noise import realise, select, without_lineage
from jaxsearch.core.space import initial_scale
from jaxsearch.core.types import (
    Array,
    Cost,
    Evaluation,
    GradientOf,
    Noise,
    Particle,
    Prediction,
    Problem,
    Prompts,
    Proposal,
    PyTree,
    Verifier,
)

PARTICLE_AXIS = "particle"


class Expansion(NamedTuple):
    """Particles moved on, and what `finish` made of their clean latents."""

    child: Particle
    output: PyTree
    cost: Cost
    gradient: Array | None = None


def advance(
    problem: Problem, proposal: Proposal, cond: PyTree, *, reversible: bool = False
) -> tuple[Particle, Array]:
    """Takes particles [n] on by `S` solver steps or their own number of them.

    Their lineage is left alone.

    Args:
        problem: denoiser and solver.
        proposal: [n, ...].
        cond: [n, ...].
        reversible: whether it can be differentiated. The way back then keeps the latents between
            steps, `S` of them a particle, and computes each step again: memory for one step's
            networks, time for every network pass once more.

    Returns:
        The moved particles and the network passes [n] int32 each has cost.
    """
    denoiser, solver = problem.denoiser, problem.solver
    calls = jnp.asarray(solver.calls, jnp.int32)
    num_steps, steps, last = proposal.noise.coefs.shape[1], proposal.steps, solver.num_steps - 1

    def denoise(x: Array, t: Array) -> Prediction:
        return denoiser(x, t, cond)

    def body(
        s: Array | int, carry: tuple[Particle, Array], value: Array | None = None
    ) -> tuple[Particle, Array]:
        particle, passes = carry
        # One that goes no further is computed beside the others, at a step that exists.
        index = particle.step if steps is None else jnp.minimum(particle.step, last)
        if value is not None:
            noise = value
        elif proposal.value is None:
            noise = realise(jax.tree.map(lambda leaf: leaf[:, s], proposal.noise), denoiser.shape)
        else:
            noise = proposal.value[:, s]
        moved = solver.step(denoise, particle.x, index, noise, particle.memory)
        passes = passes + denoiser.passes * calls[particle.step]
        step = particle.step + 1
        # Chosen here, where latents are stored, and not where each pixel of a picture would ask.
        x0 = select(step == solver.num_steps, moved.x, moved.x0)
        after = Particle(moved.x, x0, step, particle.noise, moved.memory), passes
        return after if steps is None else select(s < steps, after, carry)

    start = (proposal.parent, jnp.zeros_like(proposal.parent.step))
    if reversible:
        # A loop of traced length has no way back. Noises go in step by step, so that the gradient
        # by one of them is written once and not added to a sum over all.
        values = None if proposal.value is None else jnp.moveaxis(proposal.value, 1, 0)
        step = jax.checkpoint(
            lambda carry, at: (body(at[0], carry, at[1]), None), prevent_cse=False
        )
        return jax.lax.scan(step, start, (jnp.arange(num_steps), values))[0]
    # A loop of one turn that the compiler cannot see to be one stores the latents; otherwise they
    # are computed again for each of the pixels that a decoder makes of them.
    turns = num_steps if num_steps > 1 else jax.lax.optimization_barrier(jnp.int32(1))
    if steps is not None:
        turns = jnp.minimum(jnp.max(steps), turns)
    return jax.lax.fori_loop(0, turns, body, start)


def _lineage(proposal: Proposal) -> Noise:
    """The lineage [P, K, T + 1, ...] of children: their parent's with what was injected [P, K, S].

    Kept out of the loops over steps and microbatches, and written as selects, so that the compiler
    makes the rows of the candidates that a searcher keeps and never those of all.
    """
    parent, injected = proposal.parent, proposal.noise
    num_rows, num_steps = parent.noise.coefs.shape[2], injected.coefs.shape[2]
    gone = num_steps if proposal.steps is None else proposal.steps[..., None]
    # Row i + 1 is the noise of solver step i; this is each row's place among the injected ones.
    place = jnp.arange(-1, num_rows - 1)[None, None] - parent.step[..., None]
    written = (place >= 0) & (place < gone)
    if num_steps > 1:
        index = jnp.clip(place, 0, num_steps - 1)
        at_index = jax.vmap(jax.vmap(lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)))
        injected = at_index(injected, index)
    rows = jax.tree.map(lambda row, old: jnp.broadcast_to(row, old.shape), injected, parent.noise)
    term = jnp.broadcast_to(written[..., None], parent.noise.coefs.shape)
    keys, coefs = select(term, (rows.keys, rows.coefs), (parent.noise.keys, parent.noise.coefs))
    return Noise(keys, coefs, select(written, rows.free, parent.noise.free))


def _by_microbatch(
    run: Callable[[PyTree, PyTree], PyTree],
    shared: PyTree,
    rows: PyTree,
    microbatch: int | None,
    mesh: Mesh | None,
) -> PyTree:
    """Applies `run` to rows [N, ...] in microbatches, sharded over the particle axis.

    Each device runs the program that a single one runs on as many rows, whole: of one program that
    a compiler divides among devices, all of them agree on every loop and branch. Rows are padded
    with copies of the last one; what the copies return is dropped.

    Args:
        run: `(shared, rows [n, ...]) -> [n, ...]`.
        shared: what all rows need, such as weights.
        rows: [N, ...].
        microbatch: as of `expand`.
        mesh: as of `expand`.
    """
    if microbatch is not None:
        check_count("microbatch", microbatch)
    if mesh is not None and PARTICLE_AXIS not in mesh.shape:
        raise ValueError(
            f"the mesh has the axes {tuple(mesh.shape)}: name one of them {PARTICLE_AXIS!r}"
        )
    num = jax.tree.leaves(rows)[0].shape[0]
    devices = 1 if mesh is None else mesh.shape[PARTICLE_AXIS]
    # Of each device: its rows, and how many of them it runs at once.
    own = math.ceil(num / devices)
    size = min(math.ceil((microbatch or num) / devices), own)
    chunks = math.ceil(own / size)
    padded = devices * chunks * size
    if padded > num:
        index = jnp.minimum(jnp.arange(padded), num - 1)
        rows = jax.tree.map(lambda leaf: leaf[index], rows)

    def alone(shared: PyTree, rows: PyTree) -> PyTree:
        if microbatch is None:
            return run(shared, rows)

        def one(chunk: Array, out: PyTree) -> PyTree:
            begin = chunk * size
            part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, size), rows)
            return jax.tree.map(
                lambda whole, made: jax.lax.dynamic_update_slice_in_dim(whole, made, begin, 0),
                out,
                run(shared, part),
            )

        shapes = jax.eval_shape(run, shared, jax.tree.map(lambda leaf: leaf[:size], rows))
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros((chunks * size, *leaf.shape[1:]), leaf.dtype), shapes
        )
        # A length that the compiler cannot see, also where it is 1: of a loop of another form, or
        # of none, it would make a program that rounds otherwise, and devices differ in it.
        return jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(chunks)), one, nothing)

    if mesh is None:
        out = alone(shared, rows)
    else:
        everywhere, by_row = PartitionSpec(), PartitionSpec(PARTICLE_AXIS)
        out = jax.shard_map(
            alone, mesh=mesh, in_specs=(everywhere, by_row), out_specs=by_row,
            axis_names={PARTICLE_AXIS}, check_vma=False,
        )(shared, rows)  # fmt: skip
    return jax.tree.map(lambda leaf: leaf[:num], out) if padded > num else out


def expand(
    problem: Problem,
    proposal: Proposal,
    prompts: Prompts,
    finish: Callable[[Problem, Array, dict[str, Array]], PyTree],
    *,
    gradient: Gradient | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> Expansion:
    """Moves the particles [P, K] of a proposal on and hands their clean latents to `finish`.

    Args:
        problem: models, solver and value.
        proposal: [P, K, ...].
        prompts: [P].
        finish: `(problem, latents [n,*E], context [n,...]) -> pytree of [n, ...]`. With a mesh it
            takes arrays from its arguments only.
        gradient: what is differentiated; None does not. Every pass then counts as a backward pass
            too; what is computed again on the way back does not count.
        microbatch: particles run at once over all devices; None runs all of them.
        mesh: devices, with an axis named "particle"; None leaves placement to JAX.

    Returns:
        Children, outputs and gradients [P, K, ...], and the passes, solver steps per prompt [P].
    """
    num_prompts, num_candidates = proposal.parent.step.shape
    moving = proposal._replace(parent=without_lineage(proposal.parent))
    merged = jax.tree.map(
        lambda leaf: leaf.reshape((num_prompts * num_candidates,) + leaf.shape[2:]), moving
    )
    owner = jnp.repeat(jnp.arange(num_prompts), num_candidates)

    def move(shared: tuple[Problem, Prompts], part: Proposal, prompt: Array) -> Outcome:
        problem, prompts = shared
        cond, context = jax.tree.map(lambda leaf: leaf[prompt], (prompts.cond, prompts.context))

        def seen(particle: Particle) -> dict[str, Array]:
            return with_estimate(context, particle.memory, problem.objective.decoder)

        def ahead(part: Proposal) -> tuple[Particle, PyTree, Array]:
            child, passes = advance(problem, part, cond, reversible=gradient is not None)
            if gradient is not None and part.noise.coefs.shape[1] == problem.solver.num_steps:
                # Finished, so nothing has to stand for it: a rollout's loop has no way back.
                return child, finish(problem, child.x0, seen(child)), passes
            stands, calls = problem.value.estimate(
                lambda x, t: problem.denoiser(x, t, cond), problem.solver, child
            )
            if part.steps is not None:
                calls = jnp.where(part.steps > 0, calls, 0)
            output = finish(problem, stands.x0, seen(stands))
            return child, output, passes + problem.denoiser.passes * calls

        if gradient is None:
            return Outcome(*ahead(part), None)
        return differentiate(gradient, ahead, part)

    def run(shared: tuple[Problem, Prompts], rows: tuple[Proposal, Array]) -> Outcome:
        part = rows[0]
        if part.steps is None:
            return move(shared, *rows)
        # What nobody asked for is not computed where a whole microbatch rests.
        shapes = jax.eval_shape(move, shared, *rows)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[1:])
        return jax.lax.cond(
            jnp.any(part.steps > 0),
            move,
            lambda shared, part, prompt: Outcome(part.parent, *nothing),
            shared,
            *rows,
        )

    flat = _by_microbatch(run, (problem, prompts), (merged, owner), microbatch, mesh)
    child, output, passes, slope = jax.tree.map(
        lambda leaf: leaf.reshape((num_prompts, num_candidates) + leaf.shape[1:]), flat
    )
    steps = jnp.sum(child.step - proposal.parent.step, axis=1)
    child = child._replace(noise=_lineage(proposal), legs=proposal.parent.legs)
    cost = Cost(jnp.sum(passes, axis=1), steps)
    if gradient is not None:
        cost = cost._replace(backward_passes=cost.network_passes)
    return Expansion(child, output, cost, slope)


def evaluate(
    problem: Problem,
    proposal: Proposal,
    prompts: Prompts,
    *,
    gradient: GradientOf | None = None,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Evaluation, Cost]:
    """Moves, decodes and scores the particles [P, K] of a proposal. Arguments as for `expand`.

    A score that is not a finite number becomes -inf: it never wins and never crashes a searcher.

    With `gradient`, for parents at step 0, the evaluation has the gradient of each candidate's own
    score, the objective's aggregate of that candidate alone: [P, K, 1, *E] by its initial noise, or
    [P, K, S + 1, *E] by that and the injected ones. Zero where it or the score is not finite.

    Raises:
        ValueError: if there is no verifier; if a gradient is wanted and the decoder, a verifier or
            the aggregate (ranks among candidates, say) can have none.
    """
    objective = problem.objective
    if not objective.verifiers:
        raise ValueError("the objective has no verifier: name at least one to search for")

    def judge(problem: Problem, latents: Array, context: dict[str, Array]) -> Array:
        objective = problem.objective
        images = objective.decoder(latents)
        if gradient is not None:
            images = differentiable(images, latents, "the decoder")
        scores = [verifier(images, context) for verifier in objective.verifiers]
        if gradient is not None:
            names = [f"verifier {verifier.name!r}" for verifier in objective.verifiers]
            pairs = zip(scores, names, strict=True)
            scores = [differentiable(score, images, name) for score, name in pairs]
        return jnp.stack(scores, axis=-1)

    def own_score(scores: Array) -> Array:
        total = jax.vmap(lambda one: objective.aggregate.combine(one[None])[0])(scores)
        return differentiable(total, scores, "the objective's aggregate of a single candidate")

    wanted = None
    if gradient is not None:
        wanted = Gradient(gradient, own_score, initial_scale(problem.solver))
    child, scores, cost, slope = expand(
        problem, proposal, prompts, judge, gradient=wanted, microbatch=microbatch, mesh=mesh
    )
    evaluation = aggregate(problem, proposal, child, scores)
    if slope is not None:
        inner = tuple(range(2, slope.ndim))
        sound = jnp.isfinite(evaluation.score) & jnp.all(jnp.isfinite(slope), axis=inner)
        evaluation = evaluation._replace(gradient=select(sound, slope, jnp.zeros_like(slope)))
    return evaluation, judged(cost, proposal, scores.shape[2], num_decodes(objective.verifiers))


@functools.partial(jax.jit, static_argnames=("microbatch", "mesh"))
def judge(
    problem: Problem,
    verifiers: tuple[Verifier, ...],
    particle: Particle,
    prompts: Prompts,
    *,
    microbatch: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Array, Array]:
    """The images [P, h, w, c] of finished samples [P], and what verifiers say of them [P, V].

    Scores are as they come: not finite where a verifier failed. Microbatch and mesh are those of
    `expand`.
    """

    def look(shared: tuple[PyTree, ...], rows: tuple[Particle, PyTree]) -> tuple[Array, Array]:
        decoder, verifiers = shared
        particle, context = rows
        images = decoder(particle.x)
        context = with_estimate(context, particle.memory, decoder)
        scores = [one(images, context)[:, None] for one in verifiers]
        nothing = jnp.zeros((images.shape[0], 0))
        return images, jnp.concatenate([nothing, *scores], axis=1)

    shared = (problem.objective.decoder, verifiers)
    rows = (without_lineage(particle), prompts.context)
    return _by_microbatch(look, shared, rows, microbatch, mesh)


def judged(cost: Cost, proposal: Proposal, num_verifiers: int, num_decodes: int = 1) -> Cost:
    """The cost with the decodes and verifier calls of a proposal [P, K]."""
    num_prompts, num_candidates = proposal.parent.step.shape
    asked = jnp.full((num_prompts,), num_candidates, jnp.int32)
    if proposal.steps is not None:
        asked = jnp.sum(proposal.steps > 0, axis=1, dtype=jnp.int32)
    return cost._replace(decodes=asked * num_decodes, verifier_calls=asked * num_verifiers)


def aggregate(problem: Problem, proposal: Proposal, child: Particle, scores: Array) -> Evaluation:
    """The evaluation of a proposal's children [P, K] whose guides scored [P, K, V]."""
    worst = -jnp.inf
    valid = jnp.isfinite(scores)
    if proposal.steps is not None:
        valid &= (proposal.steps > 0)[..., None]
    scores = jnp.where(valid, scores, worst)
    return Evaluation(child, combined(problem, scores), scores)


def combined(problem: Problem, scores: Array) -> Array:
    """The scores [P, K] of candidates that are compared with each other, of [P, K, V] by guide."""
    return jax.vmap(functools.partial(compared, problem.objective.aggregate))(scores)
