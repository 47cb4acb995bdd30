"""Every searcher at equal network passes, on the embedded default.

    python -m experiments.equal_passes experiments/results/equal_passes

Time: about 20 minutes on 2 CPU cores, most of it compiling. Expected:
experiments/results/equal_passes/table.md.

The budget is what epsilon-greedy spends with the first paper's settings, 2089 passes per prompt;
each searcher gets the largest size that never exceeds it, whatever the scores, and otherwise its
defaults (tree search and rollover, whose price hangs on the scores, so spend less). Searchers of
the initial noise are shown twice: under the first paper's sampler, whose churn forgets where it
started, and without churn, where the initial noise decides everything. Model, rewards and prompts
are those of
`paper1_table.py`; `judge` is the classifier that no search sees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jsonargparse import auto_cli
from rich.console import Console

from experiments import common
from jaxsearch.core.budget import largest
from jaxsearch.core.types import Problem, Searcher, Value, Verifier
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


class Method(NamedTuple):
    """A row of the table."""

    make: Callable[[int], Searcher]  # by the size that the budget chooses
    churn: float = common.PAPER_CHURN
    value: Value = solver_estimate()

    def problem(self, guide: Verifier, num_steps: int = 18) -> Problem:
        """The embedded default under this method's sampler."""
        return common.problem(guide, num_steps=num_steps, churn=self.churn, value=self.value)


METHODS = {
    "best-of-N": Method(lambda n: best_of_n(candidates=n)),
    "epsilon-greedy": Method(lambda n: epsilon_greedy(iterations=n)),
    "zero-order per step": Method(lambda n: epsilon_greedy(iterations=n, epsilon=0.0)),
    "random draws per step": Method(lambda n: epsilon_greedy(iterations=n, epsilon=1.0)),
    "beam": Method(lambda n: beam(width=n)),
    "SVDD, best child": Method(lambda n: svdd(particles=n)),
    "rollover budget forcing": Method(lambda n: rollover(quota=n)),
    "SMC": Method(lambda n: smc(particles=n)),
    "successive halving": Method(lambda n: halving(candidates=n), value=lookahead()),
    "MCTS": Method(lambda n: mcts(simulations=n)),
    "evolution, steps 0, 4, 8": Method(lambda n: evolution(generations=n, schedule=(0, 4, 8))),
    "Markov chains, all noises": Method(lambda n: markov_chain(iterations=n, injected=True)),
    "gradient, all noises": Method(lambda n: gradient(iterations=n, injected=True)),
    "zero-order": Method(lambda n: zero_order(iterations=n)),
    "search over paths": Method(lambda n: paths(candidates=n), value=lookahead()),
    "cross-entropy": Method(lambda n: cross_entropy(generations=n)),
    "gradient": Method(lambda n: gradient(iterations=n)),
    "best-of-N, no churn": Method(lambda n: best_of_n(candidates=n), churn=0.0),
    "zero-order, no churn": Method(lambda n: zero_order(iterations=n), churn=0.0),
    "search over paths, no churn": Method(
        lambda n: paths(candidates=n), churn=0.0, value=lookahead()
    ),
    "cross-entropy, no churn": Method(lambda n: cross_entropy(generations=n), churn=0.0),
    "cross-entropy, low frequencies, no churn": Method(
        lambda n: cross_entropy(generations=n, directions=32, subspace="low_frequency"), churn=0.0
    ),
    "evolution, no churn": Method(lambda n: evolution(generations=n), churn=0.0),
    "Markov chains, no churn": Method(lambda n: markov_chain(iterations=n), churn=0.0),
    "gradient, no churn": Method(lambda n: gradient(iterations=n), churn=0.0),
}


def main(output: Path, num_prompts: int = 36, seeds: int = 3, budget: int = 2089) -> None:
    """Runs every method under every reward and writes `rows.jsonl` and `table.md`.

    Args:
        output: a folder that has no results yet.
        num_prompts: prompts, whose labels go round 0 to 9.
        seeds: searches of each prompt.
        budget: network passes per prompt, backward ones too.
    """
    guides, rows = common.guides(), common.Rows(output, common.prompts(num_prompts), seeds)
    lines, console = [], Console(width=160)
    for name, method in METHODS.items():
        size = largest(method.make, method.problem(guides[-1]), network_passes=budget)
        searcher, found = method.make(size), {}
        for guide in guides:
            try:
                found[guide.name] = rows.search(
                    searcher, method.problem(guide), method=name, size=size, reward=guide.name
                )
            except ValueError as error:
                if "no gradient" not in str(error):
                    raise
        classified = found["classifier"]
        scores = [
            common.shown(found[guide.name]["scores"]) if guide.name in found else "no gradient"
            for guide in guides
        ]
        watched = [common.shown(classified["judge"]), f"{classified['diversity']:.3f}"]
        lines.append([name, size, *scores, *watched, classified["passes"]])
        console.print(*lines[-1], sep="  ", markup=False)
        jax.clear_caches()
    head = ["method", "size", *(guide.name for guide in guides), "judge", "diversity", "passes"]
    title = (
        f"{common.conditions(num_prompts, seeds)}; T = 18; budget {budget} network passes per "
        "prompt; judge, diversity and passes under the classifier's reward"
    )
    (output / "table.md").write_text(f"{title}\n\n{common.table(head, lines)}")


if __name__ == "__main__":
    auto_cli(main)
