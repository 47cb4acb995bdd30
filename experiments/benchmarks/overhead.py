"""Search overhead: wall time of a search over that of its bare network and verifier calls.

    python experiments/benchmarks/overhead.py --repeats 5

Time: about 3 minutes on 2 CPU cores. The bar is a ratio of 1.05 for every searcher with the
embedded default on CPU; results/overhead_cpu.md has what was seen.

The bare program makes the same number of network, decoder and verifier calls at the same batch,
round by round, in one compiled loop; each call reads what the one before it wrote, so that none can
be left out. Both programs run in turn in one process, and the ratio is that of the two fastest of
`repeats` runs: other work on the machine only ever adds time. Compile time is from the traced
program to the executable, with no cache.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

import jaxsearch
from jaxsearch.core.plan import plan
from jaxsearch.core.process import karras
from jaxsearch.core.search import search
from jaxsearch.core.types import Array, Objective, Problem, Prompts, Searcher
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import best_of_n, epsilon_greedy, zero_order
from jaxsearch.solvers import heun
from jaxsearch.verifiers import brightness, compressibility
from jaxsearch.zoo import digits

SEARCHERS: dict[str, Searcher] = {
    "best_of_n(candidates=16)": best_of_n(candidates=16),
    "zero_order(neighbours=4, iterations=8)": zero_order(neighbours=4, iterations=8),
    "epsilon_greedy()": epsilon_greedy(),
}


def digits_problem(guide: str) -> Problem:
    """The embedded default under the first paper's sampler."""
    verifiers = {
        "classifier": digits.classifier,
        "brightness": brightness,
        "compressibility": compressibility,
    }
    denoiser = digits.denoiser()
    return Problem(
        denoiser=denoiser,
        objective=Objective(decoder=digits.decoder(), verifiers=(verifiers[guide](),)),
        solver=heun(karras(denoiser.process, num_steps=18)),
        value=solver_estimate(),
    )


def bare_program(searcher: Searcher, problem: Problem, prompts: Prompts) -> Callable[..., Array]:
    """A function `(problem, prompts, calls [R]) -> number` of the bare calls of a search."""
    stages = plan(searcher, problem, prompts).stages
    num_prompts = prompts.ids.shape[0]

    @jax.jit
    def run(problem: Problem, prompts: Prompts, calls: Array) -> Array:
        total, begin = jnp.float32(0.0), 0
        for stage in stages:
            owner = jnp.repeat(jnp.arange(num_prompts), stage.candidates)
            cond, context = jax.tree.map(lambda leaf, i=owner: leaf[i], prompts[1:])
            x = jnp.ones((len(owner), *problem.denoiser.shape))

            def one_round(r, carry, cond=cond, context=context):
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

            _, total = jax.lax.fori_loop(begin, begin + stage.rounds, one_round, (x, total))
            begin += stage.rounds
        return total

    return run


def calls_per_round(searcher: Searcher, problem: Problem, prompts: Prompts) -> np.ndarray:
    """[R] network calls of each round, from the cost that the search itself counts."""
    passes = np.asarray(search(jax.random.key(0), searcher, problem, prompts).trace.cost[0])[:, 0]
    per_round = np.diff(passes, prepend=0) // problem.denoiser.passes
    candidates = [
        s.candidates for s in plan(searcher, problem, prompts).stages for _ in range(s.rounds)
    ]
    return (per_round // np.asarray(candidates)).astype(np.int32)


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
    labels = jnp.arange(num_prompts, dtype=jnp.int32) % 10
    prompts = Prompts(jnp.arange(num_prompts), jnp.full_like(labels, 10), {"label": labels})
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
    for name, searcher in SEARCHERS.items():
        for guide in guides:
            problem = digits_problem(guide)
            calls = jnp.asarray(calls_per_round(searcher, problem, prompts))
            run_bare = bare_program(searcher, problem, prompts)
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
