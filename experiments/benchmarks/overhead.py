"""Search overhead: wall time of a search over that of its bare network and verifier calls.

    python -m experiments.benchmarks.overhead
    python -m experiments.benchmarks.overhead --model scenes --num_prompts 8 --repeats 5

Time: about 10 minutes each on 2 CPU cores. The bar is a ratio of 1.05 for every searcher on CPU;
results/overhead_cpu.md has what was seen, of both models in the package.

What a search calls is counted while it runs: how often the network, which solver step, and how
often the decoder and the verifier, at which batch. The bare program makes the same calls of
network, decoder and verifier at the same batch in compiled loops; each call reads what the one
before it wrote, so that none can be left out. The sampling program takes the same solver steps
instead of the network calls inside them, each with a fresh noise: what a sampler spends that
searches for nothing. All programs run in turn in one process, `repeats` times; a ratio is taken
within a turn, and the table has the median over the turns and the quartiles around it. Seconds are
medians too. Compile time is from the traced
program to the executable, with no cache. `gradient` is not here: the way back through the network
has no bare counterpart that does not depend on what is kept.
"""

from __future__ import annotations

import dataclasses
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
from jaxsearch.core.noise import fold_in_each, fresh, realise
from jaxsearch.core.plan import plan
from jaxsearch.core.search import search
from jaxsearch.core.types import Array, Problem, Prompts, Searcher, Solver, Value
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.searchers import (
    beam,
    best_of_n,
    cross_entropy,
    epsilon_greedy,
    evolution,
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


def bare_program(num_prompts: int, *, sampling: bool) -> Callable[..., Array]:
    """A function `(problem, prompts, rounds by batch) -> number` of a search's bare calls.

    Args:
        num_prompts: P.
        sampling: whether the solver's steps are taken, with fresh noises, and not the network calls
            inside them alone.
    """

    @jax.jit
    def run(problem: Problem, prompts: Prompts, rounds: dict[int, Rounds]) -> Array:
        total, solver = jnp.float32(0.0), problem.solver
        shape = problem.denoiser.shape
        for size, calls in rounds.items():
            owner = jnp.repeat(jnp.arange(num_prompts), size // num_prompts)
            cond, context = jax.tree.map(lambda leaf, i=owner: leaf[i], prompts[1:])
            x = jnp.ones((size, *shape))

            def network(x, cond=cond):
                # Times that change from call to call: of constant ones the compiler would compute
                # the embedding once, before the loop, which no sampler can.
                t = 1.0 + 1e-6 * x.reshape(len(x), -1)[:, 0]
                return problem.denoiser(x, t, cond).x0

            def step(x, place, index, size=size, cond=cond):
                keys = fold_in_each(jax.random.key(0), place * size + jnp.arange(size))
                recipe = fresh(keys, 1)
                used = jnp.asarray(solver.active, jnp.float32)[index]
                noise = realise(recipe._replace(coefs=recipe.coefs * used), shape)
                memory = jax.tree.map(lambda leaf: jnp.stack([leaf] * size), solver.memory(shape))
                moved = solver.step(
                    lambda x, t: problem.denoiser(x, t, cond), x, jnp.full(size, index), noise,
                    memory,
                )  # fmt: skip
                # Latents that stay within what the network was made for.
                return 0.5 * moved.x + moved.x0

            def item(place, x, calls=calls, step=step, network=network):
                if not sampling:
                    return network(x)
                index = calls.order[place]
                return jax.lax.cond(
                    index >= 0,
                    lambda x: step(x, place, jnp.maximum(index, 0)),
                    network,
                    x,
                )

            def one_round(r, carry, calls=calls, context=context, item=item):
                x, total, place = carry
                number = (calls.items if sampling else calls.network)[r]
                x = jax.lax.fori_loop(place, place + number, item, x)
                images = problem.objective.decoder(x)
                for verifier in problem.objective.verifiers:
                    total = total + jnp.sum(verifier(images, context))
                return x + 1e-9 * total, total, place + number

            carry = (x, total, jnp.int32(0))
            _, total, _ = jax.lax.fori_loop(0, len(calls.network), one_round, carry)
        return total

    return run


def seconds(program: Callable[..., object], *arguments: object) -> float:
    """Wall time of one call, its result awaited."""
    begin = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begin


def quartiles(runs: np.ndarray) -> np.ndarray:
    """Of runs [repeats, 3] the quartiles [2, 3] of the first over the second and the third."""
    return np.quantile(runs[:, :1] / runs[:, 1:], (0.25, 0.5, 0.75), axis=0).T


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
    columns = ("searcher", "guide", "passes", "search s", "bare s", "ratio", "sampling s",
               "ratio to it", "compile s", "bare compile s")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    key = jax.random.key(0)
    for number, (name, searcher) in enumerate(SEARCHERS.items()):
        if only and searcher.name not in only:
            continue
        for guide in guides if number < EVERY_GUIDE else guides[:1]:
            # As in experiments/equal_passes.py.
            value = lookahead() if searcher.name in ("paths", "halving") else solver_estimate()
            problem, called = made(guide, value), Calls()
            called.of(searcher, problem, prompts)
            calls = called.rounds(problem.solver)
            jax.clear_caches()
            traced = (
                search.lower(key, searcher, problem, prompts),
                bare_program(num_prompts, sampling=False).lower(problem, prompts, calls),
                bare_program(num_prompts, sampling=True).lower(problem, prompts, calls),
            )
            compiling, programs = [], []
            for lowered in traced:
                begin = time.perf_counter()
                programs.append(lowered.compile())
                compiling.append(time.perf_counter() - begin)
            arguments = ((key, problem, prompts), *[(problem, prompts, calls)] * 2)
            runs = [
                [seconds(run, *given) for run, given in zip(programs, arguments, strict=True)]
                for _ in range(repeats)
            ]
            searched, bare, sampled = np.median(runs, axis=0)
            ratios = [f"{q[1]:.3f} ({q[0]:.2f}-{q[2]:.2f})" for q in quartiles(np.asarray(runs))]
            passes = plan(searcher, problem, prompts).cost.network_passes
            table.add_row(
                name, guide, str(passes), f"{searched:.3f}", f"{bare:.3f}",
                ratios[0], f"{sampled:.3f}", ratios[1],
                *(f"{s:.1f}" for s in compiling[:2]),
            )  # fmt: skip
    Console(width=160).print(table)


if __name__ == "__main__":
    auto_cli(main)
