"""Search overhead: wall time of a search over that of its bare network and verifier calls.

    python -m experiments.benchmarks.overhead --repeats 7

Time: about 10 minutes on 2 CPU cores. The bar is a ratio of 1.05 for every searcher with the
embedded default on CPU; results/overhead_cpu.md has what was seen.

What a search calls is counted while it runs: how often the network, and how often the decoder and
the verifier, at which batch. The bare program makes the same calls at the same batch in compiled
loops; each call reads what the one before it wrote, so that none can be left out. Both programs run
in turn in one process, and the ratio is that of the two fastest of `repeats` runs: other work on
the machine only ever adds time. Compile time is from the traced program to the executable, with no
cache. `gradient` is not here: the way back through the network has no bare counterpart that does
not depend on what is kept.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

import jaxsearch
from experiments import common
from jaxsearch.core.plan import plan
from jaxsearch.core.search import search
from jaxsearch.core.types import Array, Problem, Prompts, Searcher
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
EVERY_GUIDE = 3  # the first so many searchers are measured under every guide, the rest under one


class Calls(Counter[tuple[str, int]]):
    """How often what was called at which batch, while a search of the counted problem ran."""

    def counted(self, what: str, apply: Callable[..., Any], batch_of: int) -> Callable[..., Any]:
        """The function, which reports its calls; argument `batch_of` has the batch."""

        def reported(*arguments: Any) -> Any:
            size = arguments[batch_of].shape[0]
            jax.debug.callback(lambda: self.update([(what, size)]))
            return apply(*arguments)

        return reported

    def of(self, searcher: Searcher, problem: Problem, prompts: Prompts) -> None:
        """Counts the calls of one search."""
        denoiser, (verifier,) = problem.denoiser, problem.objective.verifiers
        network = self.counted("network", denoiser.apply, 1)
        verify = self.counted("verifier", verifier.apply, 1)
        objective = dataclasses.replace(
            problem.objective, verifiers=(dataclasses.replace(verifier, apply=verify),)
        )
        problem = dataclasses.replace(
            problem, denoiser=dataclasses.replace(denoiser, apply=network), objective=objective
        )
        jax.block_until_ready(search(jax.random.key(0), searcher, problem, prompts))
        jax.effects_barrier()

    @property
    def rounds(self) -> dict[int, np.ndarray]:
        """By batch: the network calls before each verifier call, as even as can be."""
        found = {}
        for (what, size), number in self.items():
            if what == "verifier":
                share = np.linspace(0, self["network", size], number + 1).round()
                found[size] = np.diff(share).astype(np.int32)
        assert all(size in found for _, size in self)
        return found


def bare_program(num_prompts: int) -> Callable[..., Array]:
    """A function `(problem, prompts, rounds {batch: [R]}) -> number` of a search's bare calls."""

    @jax.jit
    def run(problem: Problem, prompts: Prompts, rounds: dict[int, Array]) -> Array:
        total = jnp.float32(0.0)
        for size, calls in rounds.items():
            owner = jnp.repeat(jnp.arange(num_prompts), size // num_prompts)
            cond, context = jax.tree.map(lambda leaf, i=owner: leaf[i], prompts[1:])
            x = jnp.ones((size, *problem.denoiser.shape))

            def one_round(r, carry, calls=calls, cond=cond, context=context):
                x, total = carry

                def network(_, x):
                    # Times that change from call to call: of constant ones the compiler would
                    # compute the embedding once, before the loop, which no sampler can.
                    t = 1.0 + 1e-6 * x.reshape(len(x), -1)[:, 0]
                    return problem.denoiser(x, t, cond).x0

                x = jax.lax.fori_loop(0, calls[r], network, x)
                images = problem.objective.decoder(x)
                for verifier in problem.objective.verifiers:
                    total = total + jnp.sum(verifier(images, context))
                return x + 1e-9 * total, total

            _, total = jax.lax.fori_loop(0, len(calls), one_round, (x, total))
        return total

    return run


def seconds(program: Callable[..., object], *arguments: object) -> float:
    """Wall time of one call, its result awaited."""
    begin = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - begin


def main(
    num_prompts: int = 36,
    repeats: int = 7,
    guides: tuple[str, ...] = ("classifier", "brightness", "compressibility"),
) -> None:
    """Prints the table.

    Args:
        num_prompts: prompts searched at once.
        repeats: timed runs of each program.
        guides: which verifiers to guide by, one after another.
    """
    prompts = common.prompts(num_prompts)
    verifiers = {verifier.name: verifier for verifier in common.guides()}
    table = Table(
        title=f"{num_prompts} prompts, T = 18, {jax.devices()[0].device_kind} "
        f"({jax.device_count()} device), {platform.machine()}, jax {jax.__version__}, "
        f"jaxsearch {jaxsearch.__version__}"
    )
    for column in (
        "searcher",
        "guide",
        "passes",
        "search s",
        "bare s",
        "ratio",
        "compile s",
        "bare compile s",
    ):
        table.add_column(column, justify="left" if column in ("searcher", "guide") else "right")
    key = jax.random.key(0)
    for number, (name, searcher) in enumerate(SEARCHERS.items()):
        for guide in guides if number < EVERY_GUIDE else guides[:1]:
            # As in experiments/equal_passes.py.
            value = lookahead() if searcher.name in ("paths", "halving") else solver_estimate()
            problem, called = common.problem(verifiers[guide], value=value), Calls()
            called.of(searcher, problem, prompts)
            calls = {size: jnp.asarray(rounds) for size, rounds in called.rounds.items()}
            run_bare = bare_program(num_prompts)
            jax.clear_caches()
            traced = (
                search.lower(key, searcher, problem, prompts),
                run_bare.lower(problem, prompts, calls),
            )
            compile_seconds, programs = [], []
            for lowered in traced:
                begin = time.perf_counter()
                programs.append(lowered.compile())
                compile_seconds.append(time.perf_counter() - begin)
            searches, bares = [], []
            for _ in range(repeats):
                searches.append(seconds(programs[0], key, problem, prompts))
                bares.append(seconds(programs[1], problem, prompts, calls))
            passes = plan(searcher, problem, prompts).cost.network_passes
            table.add_row(
                name, guide, str(passes), f"{min(searches):.3f}", f"{min(bares):.3f}",
                f"{min(searches) / min(bares):.3f}", *(f"{s:.1f}" for s in compile_seconds),
            )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    auto_cli(main)
