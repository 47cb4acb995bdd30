"""The first paper's table 1 on the embedded default, with a compute-matched best-of-N beside it.

    python -m experiments.paper1_table experiments/results/paper1_table

Time: about 4 minutes on 2 CPU cores. Expected: experiments/results/paper1_table/table.md.

Ramesh & Mardani 2025, table 1: three rewards, EDM's stochastic Heun sampler at T = 18, every method
at the paper's own settings and so at its own budget; `equal_passes.py` has every searcher, at its
own budget and at one for all. Their best-of-4 has a twentieth of epsilon-greedy's budget; here
best-of-60 stands beside it, the smallest best-of-N given at least as many network passes. `judge`
is the second classifier, which no search sees, under the classifier's reward. Pictures are 32 x 32
and grey (the paper: 64 x 64, colour). Every method starts from the same noise for the same prompt
and seed.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli
from rich.console import Console

from experiments import common
from jaxsearch.core.types import Searcher, Value
from jaxsearch.core.value import rollout, solver_estimate
from jaxsearch.searchers import beam, best_of_n, epsilon_greedy, mcts, zero_order


def methods(matched: int) -> dict[str, tuple[Searcher, Value]]:
    """The rows of the table."""
    estimate = solver_estimate()
    return {
        "naive": (best_of_n(candidates=1), estimate),
        "best-of-4": (best_of_n(candidates=4), estimate),
        f"best-of-{matched}, compute-matched": (best_of_n(candidates=matched), estimate),
        "beam, N = 4, B = 2": (beam(candidates=4, width=2), estimate),
        "MCTS, N = 4, S = 8": (mcts(branches=4, simulations=8), estimate),
        "MCTS, N = 4, S = 8, rollouts without noise": (
            mcts(branches=4, simulations=8, rollouts="value"),
            rollout(),
        ),
        "zero-order on the initial noise, N = 4, K = 15": (
            zero_order(neighbours=4, iterations=15),
            estimate,
        ),
        "zero-order per step (epsilon = 0)": (epsilon_greedy(epsilon=0.0), estimate),
        "random draws per step (epsilon = 1)": (epsilon_greedy(epsilon=1.0), estimate),
        "epsilon-greedy (epsilon = 0.4)": (epsilon_greedy(), estimate),
    }


def main(output: Path, num_prompts: int = 36, seeds: int = 3) -> None:
    """Runs every method under every reward and writes `rows.jsonl` and `table.md`.

    Args:
        output: a folder that has no results yet.
        num_prompts: prompts, whose labels go round 0 to 9.
        seeds: searches of each prompt.
    """
    guides, rows = common.guides(), common.Rows(output, common.prompts(num_prompts), seeds)
    lines, console = [], Console(width=160)
    # 2089 passes of epsilon-greedy; a plain sample costs 35.
    for method, (searcher, value) in methods(math.ceil(2089 / 35)).items():
        found = {}
        for guide in guides:
            problem = common.problem(guide, value=value)
            found[guide.name] = rows.search(searcher, problem, method=method, reward=guide.name)
        # The price of a tree hangs on the scores a little.
        passes, steps, calls = (
            round(np.mean([one[field] for one in found.values()]))
            for field in ("passes", "solver_steps", "verifier_calls")
        )
        lines.append(
            [
                method,
                *(common.shown(one["scores"]) for one in found.values()),
                common.shown(found["classifier"]["judge"]),
                *(passes, steps, calls),
                f"{np.mean([one['seconds'] for one in found.values()]):.2f}",
            ]
        )
        console.print(*lines[-1], sep="  ")
    head = [
        *("method", *(guide.name for guide in guides), "judge", "network passes"),
        *("paper's NFE", "verifier calls", "seconds"),
    ]
    title = (
        f"{common.conditions(num_prompts, seeds)}; T = 18; seconds for all of them, compiled, mean "
        "over the rewards"
    )
    (output / "table.md").write_text(f"{title}\n\n{common.table(head, lines)}")


if __name__ == "__main__":
    auto_cli(main)
