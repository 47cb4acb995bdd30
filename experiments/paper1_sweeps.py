"""The first paper's sweeps on the embedded default, each a section of one page.

    python -m experiments.paper1_sweeps experiments/results/paper1_sweeps

Time: about 40 minutes on 2 CPU cores. Expected: experiments/results/paper1_sweeps/table.md.

Ramesh & Mardani 2025, section 5 and appendix: the share of global draws epsilon, the radius lambda
of local moves, candidates N, iterations K, solver steps T, iterations in windows of noise levels
only (their K_t), and the iteration at which a fresh draw wins, by step (their k-bar). Where nothing
else is said: N = 4, K = 20, lambda = 0.15, epsilon = 0.4, T = 18, the paper's sampler and the
rewards of `paper1_table.py`. Epsilon and lambda are swept in one program each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console

from experiments import common
from jaxsearch.core.plan import plan
from jaxsearch.core.search import search, search_in_chunks
from jaxsearch.core.types import Array, Problem, Prompts, Searcher, Verifier
from jaxsearch.searchers import beam, best_of_n, epsilon_greedy, mcts

EPSILONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
RADII = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
CANDIDATES = (2, 4, 8, 16)
ITERATIONS = (1, 4, 16, 64)
STEPS = (18, 32, 64)
WINDOWS = ((0.0, 80.0), (0.01, 1.0), (1.0, 80.0), (0.2, 5.0), (5.0, 80.0))


def continuous(
    make: Callable[[Any], Searcher],
    values: Sequence[float],
    problem: Problem,
    prompts: Prompts,
    seeds: int,
) -> dict[str, list]:
    """By value of a continuous setting, from one program: the scores of every prompt and seed, and
    the mean of the network passes that they cost.
    """

    @jax.jit
    def grid(values: Array, key: Array, problem: Problem) -> tuple[Array, Array]:
        results = jax.vmap(lambda value: search(key, make(value), problem, prompts))(values)
        return results.score, results.cost.network_passes

    found = [grid(jnp.asarray(values), jax.random.key(seed), problem) for seed in range(seeds)]
    scores, passes = (np.concatenate(of_seeds, axis=1) for of_seeds in zip(*found, strict=True))
    return {"scores": scores.tolist(), "passes": passes.mean(axis=1).tolist()}


def k_bar(problem: Problem, prompts: Prompts, seeds: int) -> list[tuple[float, float]]:
    """By solver step: its noise level, and the mean iteration (from 1) at which a fresh draw won.

    A fresh draw is one Gaussian, and a recipe of one term; a local move has more.
    """
    iterations, searcher = 20, epsilon_greedy(iterations=20)
    active = [step for step, takes in enumerate(problem.solver.active) if takes]
    left = iter(active)
    rounds: list[tuple[int, int] | None] = []  # the step and the iteration, where it searches
    for stage in plan(searcher, problem, prompts).stages:
        if stage.candidates == 1:
            rounds.append(None)
        else:
            for _ in range(stage.rounds // iterations):
                step = next(left)
                rounds += [(step, iteration) for iteration in range(1, iterations + 1)]
    won: dict[int, list[int]] = {step: [] for step in active}
    for seed in range(seeds):
        states = search_in_chunks(
            jax.random.key(seed), searcher, problem, prompts, rounds_per_chunk=1
        )
        for of_round, state in zip(rounds, states, strict=True):
            if of_round is not None:
                step, iteration = of_round
                coefs = np.asarray(state.searcher.parent.noise.coefs)[:, step + 1]
                won[step] += [iteration] * int(np.sum(np.sum(coefs != 0, axis=-1) == 1))
    sigmas = problem.solver.schedule.times
    return [(float(sigmas[step]), float(np.mean(won[step]))) for step in active]


def main(output: Path, num_prompts: int = 36, seeds: int = 3) -> None:
    """Runs every sweep and writes `rows.jsonl` and `table.md`.

    Args:
        output: a folder that has no results yet.
        num_prompts: prompts, whose labels go round 0 to 9.
        seeds: searches of each prompt.
    """
    guides, rows = common.guides(), common.Rows(output, common.prompts(num_prompts), seeds)
    prompts, names = rows.prompts, [guide.name for guide in guides]
    page, console = [common.conditions(num_prompts, seeds)], Console(width=160)

    def section(title: str, head: list[str], lines: list[list[object]]) -> None:
        page.append(f"## {title}\n\n{common.table(head, lines)}")
        console.print(page[-1], markup=False)
        jax.clear_caches()

    def row(
        sweep: str, method: str, setting: object, searcher: Searcher, num_steps: int = 18
    ) -> list[object]:
        """One setting under every reward, and what it cost."""
        found = [
            rows.search(
                searcher, common.problem(guide, num_steps=num_steps),
                sweep=sweep, method=method, setting=setting, reward=guide.name,
            )
            for guide in guides
        ]  # fmt: skip
        scores = [common.shown(one["scores"]) for one in found]
        return [method, setting, *scores, round(np.mean([one["passes"] for one in found]))]

    def grid(
        sweep: str, method: str, make: Callable[[Any], Searcher], values: Sequence[float]
    ) -> list[list[object]]:
        """Many settings under every reward, a program for each reward."""
        found = [
            rows.get(
                lambda: continuous(make, values, common.problem(guide), prompts, seeds),  # noqa: B023
                sweep=sweep, method=method, settings=list(values), reward=guide.name,
            )
            for guide in guides
        ]  # fmt: skip
        return [
            [
                *(method, value, *(common.shown(one["scores"][place]) for one in found)),
                round(np.mean([one["passes"][place] for one in found])),
            ]
            for place, value in enumerate(values)
        ]

    section(
        "Epsilon",
        ["method", "epsilon", *names, "network passes"],
        grid("epsilon", "epsilon-greedy", lambda v: epsilon_greedy(epsilon=v), EPSILONS),
    )
    section(
        "Lambda",
        ["method", "lambda", *names, "network passes"],
        grid("lambda", "epsilon-greedy", lambda v: epsilon_greedy(radius=v), RADII)
        + grid(
            "lambda",
            "zero-order per step",
            lambda v: epsilon_greedy(epsilon=0.0, radius=v),
            RADII,
        ),
    )
    by_candidates: dict[str, Callable[[int], Searcher]] = {
        "epsilon-greedy": lambda n: epsilon_greedy(candidates=n),
        "zero-order per step": lambda n: epsilon_greedy(epsilon=0.0, candidates=n),
        "beam, B = 2": lambda n: beam(width=2, candidates=n),
        "MCTS, S = 8": lambda n: mcts(branches=n, simulations=8),
        "best-of-N": lambda n: best_of_n(candidates=n),
    }
    section(
        "Candidates N",
        ["method", "N", *names, "network passes"],
        [
            row("candidates", method, n, make(n))
            for method, make in by_candidates.items()
            for n in CANDIDATES
        ],
    )
    section(
        "Iterations K",
        ["method", "K", *names, "network passes"],
        [
            row("iterations", method, k, epsilon_greedy(iterations=k, epsilon=epsilon))
            for method, epsilon in (("epsilon-greedy", 0.4), ("zero-order per step", 0.0))
            for k in ITERATIONS
        ],
    )
    by_steps = {
        "naive": best_of_n(candidates=1),
        "best-of-4": best_of_n(candidates=4),
        "epsilon-greedy": epsilon_greedy(),
        "zero-order per step": epsilon_greedy(epsilon=0.0),
    }
    section(
        "Solver steps T",
        ["method", "T", *names, "network passes"],
        [
            row("steps", method, num_steps, searcher, num_steps)
            for method, searcher in by_steps.items()
            for num_steps in STEPS
        ],
    )
    section(
        "K = 20 in a window of noise levels, 1 elsewhere",
        ["method", "sigma", *names, "network passes"],
        [windowed(row, window, guides[0]) for window in WINDOWS],
    )
    bars = [
        rows.get(
            lambda: {"by_sigma": k_bar(common.problem(guide), prompts, seeds)},  # noqa: B023
            sweep="k-bar", reward=guide.name,
        )["by_sigma"]
        for guide in guides
    ]  # fmt: skip
    section(
        "Mean iteration, of 20, at which a fresh draw won (any iteration alike: 10.5)",
        ["sigma", *names],
        [
            [f"{of_step[0][0]:.3g}", *(f"{mean:.1f}" for _, mean in of_step)]
            for of_step in zip(*bars, strict=True)
        ],
    )
    (output / "table.md").write_text("\n\n".join(page) + "\n")


def windowed(
    row: Callable[[str, str, object, Searcher], list[object]],
    window: tuple[float, float],
    guide: Verifier,
) -> list[object]:
    """20 iterations at the noise levels inside a window and one elsewhere, as the paper has it."""
    low, high = window
    sigmas = common.problem(guide).solver.schedule.times[:-1]
    iterations = tuple(20 if low <= sigma <= high else 1 for sigma in sigmas)
    searcher = epsilon_greedy(iterations=iterations)
    return row("window", "epsilon-greedy", f"{low:g} to {high:g}", searcher)


if __name__ == "__main__":
    auto_cli(main)
