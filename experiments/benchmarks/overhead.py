"""Search overhead: wall time of a search over that of its bare network and verifier calls.

    python -m experiments.benchmarks.overhead
    python -m experiments.benchmarks.overhead --model scenes --num_prompts 8 --repeats 5

Time: about 16 and 20 minutes on 2 CPU cores. The bar is a ratio of 1.05 for every searcher on CPU;
results/overhead_cpu.md has what was seen, of both models in the package.

What a search calls is counted while it runs: how often the network, which solver step, and how
often the decoder and the verifier, at which batch. The bare program makes the same calls of
network, decoder and verifier at the same batch in compiled loops, a round of each batch in turn;
each call reads what the one before it wrote, so that none can be left out. The sampling program
takes the same solver steps instead of the network calls inside them, each with a fresh noise: what
a sampler spends that searches for nothing. Where that alone is above the bar, no search that takes
those steps can be below. All programs run in turn in one process, `repeats` times; a ratio is taken
within a turn, and the table has the median over the turns and the quartiles around it. Seconds are
medians too. Compile time is from the traced program to the executable, with no cache. `gradient`
has no bare calls to be beside: the way back through a network has none that does not depend on what
is kept. Its sampling program goes back through the same sampler as often, and takes a plain step
up.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

import jaxsearch
from experiments import common, scenes_common
from jaxsearch.core.noise import fresh, realise
from jaxsearch.core.plan import plan
from jaxsearch.core.random import fold_in
from jaxsearch.core.search import search
from jaxsearch.core.space import initial_scale
from jaxsearch.core.types import Array, Problem, Prompts, PyTree, Searcher, Solver, Value
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.searchers import (
    beam,
    best_of_n,
    cross_entropy,
    epsilon_greedy,
    evolution,
    gradient,
    halving,
    markov_chain,
    mcts,
    paths,
    rollover,
    smc,
    svdd,
    zero_order,
)

SEARCHERS: dict[str, Searcher] = {
    "best_of_n(candidates=16)": best_of_n(candidates=16),
    "zero_order(neighbours=4, iterations=8)": zero_order(neighbours=4, iterations=8),
    "epsilon_greedy()": epsilon_greedy(),
    "beam(width=8)": beam(width=8),
    "svdd(particles=8)": svdd(particles=8),
    "smc()": smc(),
    "halving(candidates=32)": halving(candidates=32),
    "rollover(quota=16)": rollover(quota=16),
    "mcts()": mcts(),
    "paths(candidates=8)": paths(candidates=8),
    "evolution(schedule=(0, 4, 8))": evolution(schedule=(0, 4, 8)),
    "markov_chain(injected=True)": markov_chain(injected=True),
    "cross_entropy()": cross_entropy(),
    "gradient()": gradient(),
}
GUIDES = {
    "digits": ("classifier", "brightness", "compressibility"),
    "scenes": ("alignment",),
}
EVERY_GUIDE = 3  # the first so many searchers are measured under every guide, the rest under one


class Rounds(NamedTuple):
    """The calls of one batch: what goes before each verifier call, as even as can be."""

    network: Array  # [R] network calls, those inside solver steps too
    items: Array  # [R] solver steps and other network calls
    order: Array  # [sum(items)] the index of each step; -1 for a network call outside of steps


class Calls(Counter[tuple[str, int, int]]):
    """How often what was called at which batch, and which step, while a counted search ran."""

    def counted(self, what: str, apply: Callable[..., Any], batch_of: int) -> Callable[..., Any]:
        """The function, which reports its calls; argument `batch_of` has the batch."""

        def reported(*arguments: Any) -> Any:
            size = arguments[batch_of].shape[0]
            jax.debug.callback(lambda: self.update([(what, size, 0)]))
            return apply(*arguments)

        return reported

    def steps(self, solver: Solver) -> Solver:
        """The solver, which reports its steps; a batch stands for its first row."""

        def reported(denoise: Any, x: Array, index: Array, *rest: Any) -> Any:
            size = x.shape[0]
            jax.debug.callback(lambda i: self.update([("step", size, int(i))]), index[0])
            return solver.step(denoise, x, index, *rest)

        quiet = None if solver.quiet is None else self.steps(solver.quiet)
        return dataclasses.replace(solver, step=reported, quiet=quiet)

    def of(self, searcher: Searcher, problem: Problem, prompts: Prompts) -> None:
        """Counts the calls of one search."""
        denoiser, (verifier,) = problem.denoiser, problem.objective.verifiers
        network = self.counted("network", denoiser.apply, 1)
        verify = self.counted("verifier", verifier.apply, 1)
        objective = dataclasses.replace(
            problem.objective, verifiers=(dataclasses.replace(verifier, apply=verify),)
        )
        problem = dataclasses.replace(
            problem,
            denoiser=dataclasses.replace(denoiser, apply=network),
            solver=self.steps(problem.solver),
            objective=objective,
        )
        jax.block_until_ready(search(jax.random.key(0), searcher, problem, prompts))
        jax.effects_barrier()

    def rounds(self, solver: Solver) -> dict[int, Rounds]:
        """What is called, by batch."""
        found = {}
        for (what, size, _), number in self.items():
            if what != "verifier":
                continue
            network = self["network", size, 0]
            times = {i: self["step", size, i] for i in range(solver.num_steps)}
            inside = sum(solver.calls[i] * count for i, count in times.items())
            assert network - inside >= 0, "a step makes more calls than it says"
            # In turn, as a sampler takes them; what is left over goes to the end.
            turns = range(max(times.values(), default=0))
            order = [i for turn in turns for i, count in times.items() if turn < count]
            order += [-1] * (network - inside)

            def even(total: int, number: int = number) -> Array:
                share = np.diff(np.linspace(0, total, number + 1).round())
                return jnp.asarray(share, jnp.int32)

            found[size] = Rounds(even(network), even(len(order)), jnp.asarray(order, jnp.int32))
        assert all(size in found for _, size, _ in self)
        return found


def digits(num_prompts: int) -> tuple[Prompts, Callable[[str, Value], Problem]]:
    """The digits' prompts, and their problem under a guide, 18 steps of Heun."""
    verifiers = {verifier.name: verifier for verifier in common.guides()}

    def made(guide: str, value: Value) -> Problem:
        return common.problem(verifiers[guide], value=value)

    return common.prompts(num_prompts), made


def scenes(num_prompts: int) -> tuple[Prompts, Callable[[str, Value], Problem]]:
    """The scenes' prompts, and their problem under a guide, 20 steps of the flow's SDE."""
    return scenes_common.captions(num_prompts).prompts, scenes_common.problem


MODELS = {"digits": digits, "scenes": scenes}


def bare_program(num_prompts: int, *, sampling: bool) -> jax.stages.Wrapped:
    """A function `(problem, prompts, rounds by batch) -> number` of a search's bare calls.

    Args:
        num_prompts: P.
        sampling: whether the solver's steps are taken, with fresh noises, and not the network calls
            inside them alone.
    """

    @jax.jit
    def run(problem: Problem, prompts: Prompts, rounds: dict[int, Rounds]) -> Array:
        solver, shape = problem.solver, problem.denoiser.shape
        used = jnp.asarray(solver.active, jnp.float32)

        def asked(size: int) -> tuple[PyTree, dict[str, Array]]:
            owner = jnp.repeat(jnp.arange(num_prompts), size // num_prompts)
            return jax.tree.map(lambda leaf: leaf[owner], (prompts.cond, prompts.context))

        of_batch = {size: asked(size) for size in rounds}

        def network(size: int, x: Array) -> Array:
            # Times that change from call to call: of constant ones the compiler would compute the
            # embedding once, before the loop, which no sampler can.
            t = 1.0 + 1e-6 * x.reshape(size, -1)[:, 0]
            return problem.denoiser(x, t, of_batch[size][0]).x0

        def step(size: int, x: Array, place: Array, index: Array) -> Array:
            recipe = fresh(fold_in(jax.random.key(0), place * size + jnp.arange(size)), 1)
            noise = realise(recipe._replace(coefs=recipe.coefs * used[index]), shape)
            memory = jax.tree.map(lambda leaf: jnp.stack([leaf] * size), solver.memory(shape))
            moved = solver.step(
                lambda x, t: problem.denoiser(x, t, of_batch[size][0]),
                x, jnp.full(size, index), noise, memory,
            )  # fmt: skip
            # Latents that stay within what the network was made for.
            return 0.5 * moved.x + moved.x0

        def one_round(size: int, number: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            calls = rounds[size]

            def item(place: Array, x: Array) -> Array:
                if not sampling:
                    return network(size, x)
                index = calls.order[place]
                return jax.lax.cond(
                    index >= 0,
                    lambda x: step(size, x, place, jnp.maximum(index, 0)),
                    lambda x: network(size, x),
                    x,
                )

            x, total, place = carry
            end = place + (calls.items if sampling else calls.network)[number]
            x = jax.lax.fori_loop(place, end, item, x)
            images = problem.objective.decoder(x)
            for verifier in problem.objective.verifiers:
                total = total + jnp.sum(verifier(images, of_batch[size][1]))
            return x + 1e-9 * total, total, end

        # A round of each batch in turn: a search too goes from one to the other.
        def turn(number: Array, state: dict[int, tuple[Array, ...]]) -> dict[int, Any]:
            return {
                size: jax.lax.cond(
                    number < len(rounds[size].network),
                    functools.partial(one_round, size, number),
                    lambda carry: carry,
                    carry,
                )
                for size, carry in state.items()
            }

        state = {size: (jnp.ones((size, *shape)), jnp.float32(0), jnp.int32(0)) for size in rounds}
        turns = max(len(calls.network) for calls in rounds.values())
        state = jax.lax.fori_loop(0, turns, turn, state)
        return sum((total for _, total, _ in state.values()), jnp.float32(0))

    return run


def climbing_program(num_prompts: int, climbs: int) -> jax.stages.Wrapped:
    """A function `(problem, prompts) -> number` of `climbs` steps up, and what the last led to.

    Args:
        num_prompts: P.
        climbs: gradients taken, each of the scores of whole samples, whose noises are drawn anew.
    """

    @jax.jit
    def run(problem: Problem, prompts: Prompts) -> Array:
        denoiser, solver = problem.denoiser, problem.solver
        shape, used = denoiser.shape, jnp.asarray(solver.active, jnp.float32)

        rows = jnp.arange(num_prompts)
        memory = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_prompts), solver.memory(shape))

        def score(x: Array, turn: Array | int) -> Array:
            def step(
                carry: tuple[Array, PyTree], index: Array
            ) -> tuple[tuple[Array, PyTree], None]:
                x, memory = carry
                place = (turn * solver.num_steps + index) * num_prompts
                recipe = fresh(fold_in(jax.random.key(0), place + rows), 1)
                noise = realise(recipe._replace(coefs=recipe.coefs * used[index]), shape)
                moved = solver.step(
                    lambda x, t: denoiser(x, t, prompts.cond), x, jnp.full(num_prompts, index),
                    noise, memory,
                )  # fmt: skip
                return (moved.x, moved.memory), None

            steps = jnp.arange(solver.num_steps)
            (x, _), _ = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), (x, memory), steps)
            images = problem.objective.decoder(x)
            (verifier,) = problem.objective.verifiers
            return jnp.sum(verifier(images, prompts.context))

        def climb(turn: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            x, total = carry
            value, slope = jax.value_and_grad(score)(x, turn)
            return x + 1e-3 * slope, total + value

        begin = initial_scale(solver) * jax.random.normal(jax.random.key(1), (num_prompts, *shape))
        x, total = jax.lax.fori_loop(0, climbs, climb, (begin, jnp.float32(0.0)))
        return total + score(x, climbs)

    return run


def seconds(program: Callable[..., object], *arguments: object) -> float:
    """Wall time of one call, its result awaited."""
    begin = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begin


def ratio(one: Array, other: Array) -> str:
    """Of seconds [repeats] the median ratio within a turn, and its quartiles."""
    low, middle, high = np.quantile(one / other, (0.25, 0.5, 0.75))
    return f"{middle:.3f} ({low:.2f}-{high:.2f})"


def main(
    model: Literal["digits", "scenes"] = "digits",
    num_prompts: int = 36,
    repeats: int = 15,
    guides: tuple[str, ...] | None = None,
    only: tuple[str, ...] = (),
) -> None:
    """Prints the table.

    Args:
        model: whose network is called.
        num_prompts: prompts searched at once.
        repeats: timed runs of each program.
        guides: which verifiers to guide by, one after another; null: those of the experiments.
        only: names of searchers; none are all.
    """
    prompts, made = MODELS[model](num_prompts)
    guides = GUIDES[model] if guides is None else guides
    table = Table(
        title=f"{model}, {num_prompts} prompts, {jax.devices()[0].device_kind} "
        f"({jax.device_count()} device), {platform.machine()}, jax {jax.__version__}, "
        f"jaxsearch {jaxsearch.__version__}"
    )
    columns = ("searcher", "guide", "passes", "search s", "sampling s", "bare s",
               "search / sampling", "search / bare", "sampling / bare",
               "compile s", "bare compile s")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    key = jax.random.key(0)
    for number, (name, searcher) in enumerate(SEARCHERS.items()):
        if only and searcher.name not in only:
            continue
        for guide in guides if number < EVERY_GUIDE else guides[:1]:
            # As in experiments/equal_passes.py, and as the command has it for scenes.
            late = model == "scenes" and searcher.name != "mcts"
            ahead = late or searcher.name in ("paths", "halving")
            problem = made(guide, lookahead() if ahead else solver_estimate())
            cost = plan(searcher, problem, prompts).cost
            given: tuple[Any, ...] = (problem, prompts)
            if searcher.name == "gradient":
                climbs = int(cost.backward_passes * cost.decodes // cost.network_passes)
                beside = [climbing_program(num_prompts, climbs)]
            else:
                called = Calls()
                called.of(searcher, problem, prompts)
                given += (called.rounds(problem.solver),)
                beside = [bare_program(num_prompts, sampling=one) for one in (True, False)]
            jax.clear_caches()
            traced = [search.lower(key, searcher, problem, prompts)]
            traced += [program.lower(*given) for program in beside]
            compiling, programs = [], []
            for lowered in traced:
                begin = time.perf_counter()
                programs.append(lowered.compile())
                compiling.append(f"{time.perf_counter() - begin:.1f}")
            arguments = ((key, problem, prompts), *[given] * len(beside))
            turns = [
                [seconds(run, *them) for run, them in zip(programs, arguments, strict=True)]
                for _ in range(repeats)
            ]
            searched, sampled, *bare = np.transpose(turns)
            against_bare = [(ratio(searched, one), ratio(sampled, one)) for one in bare]
            medians = [f"{np.median(one):.3f}" for one in (searched, sampled, *bare)]
            table.add_row(
                name, guide, str(cost.network_passes + cost.backward_passes),
                *medians, *["-"] * (3 - len(medians)), ratio(searched, sampled),
                *(against_bare or [("-", "-")])[0], compiling[0], *(compiling[2:] or ["-"]),
            )  # fmt: skip
    Console(width=200).print(table)


if __name__ == "__main__":
    auto_cli(main)
