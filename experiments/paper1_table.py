"""The first paper's table 1 on the embedded default, with a compute-matched best-of-N beside it.

    python experiments/paper1_table.py experiments/results/paper1_table

Time: about 2 minutes on 2 CPU cores. Expected: experiments/results/paper1_table/table.md.

Ramesh & Mardani 2025, table 1: three rewards, EDM's stochastic Heun sampler at T = 18, N = 4, K =
20, lambda = 0.15, epsilon = 0.4. Their best-of-4 has a twentieth of epsilon-greedy's budget; here
best-of-60 stands beside it, the smallest best-of-N given at least as many network passes. The
digits are drawn without a label, so that the classifier's reward has room; `judge` is the second
classifier, which no search sees. Pictures are 32 x 32 and grey, and compressibility counts from
1000 bytes (the paper: 64 x 64, colour, 3000). Every method starts from the same noise for the
same prompt and seed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from scipy import stats

import jaxsearch
from jaxsearch.core.process import karras
from jaxsearch.core.search import search
from jaxsearch.core.types import Objective, Problem, Prompts, Searcher, Verifier
from jaxsearch.core.value import solver_estimate
from jaxsearch.searchers import best_of_n, epsilon_greedy, zero_order
from jaxsearch.solvers import heun
from jaxsearch.verifiers import brightness, compressibility
from jaxsearch.zoo import digits
from jaxsearch.zoo.digits.network import NO_LABEL


def methods(matched: int) -> dict[str, Searcher]:
    """The rows of the table."""
    return {
        "naive": best_of_n(candidates=1),
        "best-of-4": best_of_n(candidates=4),
        f"best-of-{matched}, compute-matched": best_of_n(candidates=matched),
        "zero-order on the initial noise, N = 4, K = 15": zero_order(neighbours=4, iterations=15),
        "zero-order per step (epsilon = 0)": epsilon_greedy(epsilon=0.0),
        "random draws per step (epsilon = 1)": epsilon_greedy(epsilon=1.0),
        "epsilon-greedy (epsilon = 0.4)": epsilon_greedy(),
    }


@dataclasses.dataclass
class Row:
    """One method under one reward."""

    method: str
    reward: str
    scores: list[float]  # every prompt of every seed
    judge: list[float]
    network_passes: int  # per prompt
    solver_steps: int
    verifier_calls: int
    seconds: float  # of all seeds, compiled
    compile_seconds: float


def interval(values: list[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval (Student's t)."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(half)


def run(method: str, searcher: Searcher, guide: Verifier, prompts: Prompts, seeds: int) -> Row:
    """Searches all prompts under every seed."""
    denoiser, judge = digits.denoiser(), digits.judge()
    problem = Problem(
        denoiser=denoiser,
        objective=Objective(decoder=digits.decoder(), verifiers=(guide,)),
        solver=heun(karras(denoiser.process, num_steps=18)),
        value=solver_estimate(),
    )
    begin = time.perf_counter()
    program = search.lower(jax.random.key(0), searcher, problem, prompts).compile()
    compiled = time.perf_counter()
    scores, judged, seconds = [], [], 0.0
    keys = [jax.random.key(seed) for seed in range(seeds)]
    jax.block_until_ready(program(keys[0], problem, prompts))  # the first call reads the program in
    for key in keys:
        started = time.perf_counter()
        result = jax.block_until_ready(program(key, problem, prompts))
        seconds += time.perf_counter() - started
        scores += np.asarray(result.score, float).tolist()
        images = problem.objective.decoder(result.particle.x)
        judged += np.asarray(judge(images, prompts.context), float).tolist()
    cost = jax.tree.map(lambda field: int(field[0]), result.cost)
    return Row(
        method, guide.name, scores, judged, cost.network_passes, cost.solver_steps,
        cost.verifier_calls, seconds, compiled - begin,
    )  # fmt: skip


def markdown(rows: list[Row], rewards: list[str], title: str) -> str:
    """The table: means, 95 % intervals, passes and seconds."""
    head = [
        "method",
        *rewards,
        "judge",
        "network passes",
        "paper's NFE",
        "verifier calls",
        "seconds",
    ]
    lines = [title, "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method in dict.fromkeys(row.method for row in rows):
        mine = {row.reward: row for row in rows if row.method == method}
        cells = [f"{m:.4f} ± {h:.4f}" for m, h in (interval(mine[r].scores) for r in rewards)]
        judge = "{:.4f} ± {:.4f}".format(*interval(mine["classifier"].judge))
        one = mine[rewards[0]]
        spent = f"{np.mean([row.seconds for row in mine.values()]):.2f}"
        costs = map(str, (one.network_passes, one.solver_steps, one.verifier_calls))
        lines.append("| " + " | ".join([method, *cells, judge, *costs, spent]) + " |")
    return "\n".join(lines) + "\n"


def main(output: Path, num_prompts: int = 36, seeds: int = 3) -> None:
    """Runs every method under every reward and writes `rows.json` and `table.md`.

    Args:
        output: a folder that has no results yet.
        num_prompts: prompts, whose labels go round 0 to 9.
        seeds: searches of each prompt.
    """
    if (output / "table.md").exists():
        raise SystemExit(f"{output} already holds results: choose another --output")
    labels = jnp.arange(num_prompts, dtype=jnp.int32) % 10
    prompts = Prompts(jnp.arange(num_prompts), jnp.full_like(labels, NO_LABEL), {"label": labels})
    guides = [brightness(), compressibility(max_bytes=1000), digits.classifier()]
    rows, console = [], Console()
    for guide in guides:
        # 2089 passes of epsilon-greedy; a plain sample costs 35.
        for method, searcher in methods(math.ceil(2089 / 35)).items():
            row = run(method, searcher, guide, prompts, seeds)
            rows.append(row)
            mean, half = interval(row.scores)
            console.print(
                f"{guide.name:16s} {method:50s} {mean:.4f} ± {half:.4f}  {row.network_passes:5d} "
                f"passes  {row.seconds:6.2f} s (compiled in {row.compile_seconds:.1f} s)"
            )
    title = (
        f"{num_prompts} prompts x {seeds} seeds, mean ± half the 95 % interval; T = 18; "
        f"seconds for all of them, compiled, mean over the rewards; "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, jaxsearch {jaxsearch.__version__}"
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / "rows.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    table = markdown(rows, [guide.name for guide in guides], title)
    (output / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    auto_cli(main)
