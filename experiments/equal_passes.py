"""Every searcher at its own budget and at equal network passes, on the embedded default.

    python -m experiments.equal_passes experiments/results/equal_passes

Time: about 45 minutes on 2 CPU cores that others share, most of it compiling. Expected:
experiments/results/equal_passes/table.md.

A searcher's own budget is what its defaults spend, which are the papers' settings where a paper has
some. The common budget is what epsilon-greedy spends with the first paper's settings, 2089 passes
per prompt; each searcher gets the largest size that never exceeds it, whatever the scores, and
otherwise its defaults (tree search and rollover, whose price hangs on the scores, so spend less).
Searchers of the initial noise are shown twice: under the first paper's sampler, whose churn forgets
where it started, and without churn, where the initial noise decides everything. Model, rewards and
prompts are those of `paper1_table.py`; `judge` is the classifier that no search sees.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console

from experiments import common
from jaxsearch.core.budget import largest
from jaxsearch.core.types import Problem, Searcher, Value, Verifier
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.searchers import FREE_SIZE, SEARCHERS


class Method(NamedTuple):
    """A row of the table: a searcher, and those of its settings that are not its defaults."""

    searcher: str
    settings: dict[str, Any] = {}  # noqa: RUF012
    churn: float = common.PAPER_CHURN
    value: Value = solver_estimate()

    @property
    def own_size(self) -> int:
        """The size that the searcher has by itself."""
        factory = SEARCHERS[self.searcher]
        return inspect.signature(factory).parameters[FREE_SIZE[self.searcher]].default

    def make(self, size: int) -> Searcher:
        """The searcher of a size."""
        return SEARCHERS[self.searcher](**{FREE_SIZE[self.searcher]: size}, **self.settings)

    def problem(self, guide: Verifier, num_steps: int = 18) -> Problem:
        """The embedded default under this method's sampler."""
        return common.problem(guide, num_steps=num_steps, churn=self.churn, value=self.value)


METHODS = {
    "best-of-N": Method("best_of_n"),
    "epsilon-greedy": Method("epsilon_greedy"),
    "zero-order per step": Method("epsilon_greedy", {"epsilon": 0.0}),
    "random draws per step": Method("epsilon_greedy", {"epsilon": 1.0}),
    "beam": Method("beam"),
    "SVDD, best child": Method("svdd"),
    "rollover budget forcing": Method("rollover"),
    "SMC": Method("smc"),
    "successive halving": Method("halving", value=lookahead()),
    "MCTS": Method("mcts"),
    "evolution, steps 0, 4, 8": Method("evolution", {"schedule": (0, 4, 8)}),
    "Markov chains, all noises": Method("markov_chain", {"injected": True}),
    "gradient, all noises": Method("gradient", {"injected": True}),
    "zero-order": Method("zero_order"),
    "search over paths": Method("paths", value=lookahead()),
    "cross-entropy": Method("cross_entropy"),
    "gradient": Method("gradient"),
    "best-of-N, no churn": Method("best_of_n", churn=0.0),
    "zero-order, no churn": Method("zero_order", churn=0.0),
    "search over paths, no churn": Method("paths", churn=0.0, value=lookahead()),
    "cross-entropy, no churn": Method("cross_entropy", churn=0.0),
    "cross-entropy, low frequencies, no churn": Method(
        "cross_entropy", {"directions": 32, "subspace": "low_frequency"}, churn=0.0
    ),
    "evolution, no churn": Method("evolution", churn=0.0),
    "Markov chains, no churn": Method("markov_chain", churn=0.0),
    "gradient, no churn": Method("gradient", churn=0.0),
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

    def measured(name: str, method: Method, size: int) -> dict[str, dict[str, Any]]:
        """What a size finds, by the guides that it can use."""
        found, searcher = {}, method.make(size)
        for guide in guides:
            try:
                found[guide.name] = rows.search(
                    searcher, method.problem(guide), method=name, size=size, reward=guide.name
                )
            except ValueError as error:
                if "no gradient" not in str(error):
                    raise
        return found

    for name, method in METHODS.items():
        size = largest(method.make, method.problem(guides[-1]), network_passes=budget)
        line: list[object] = [name]
        for one in (method.own_size, size):
            found = measured(name, method, one)
            # The price of some hangs on the scores.
            passes = round(np.mean([row["passes"] for row in found.values()]))
            scores = [
                common.shown(found[guide.name]["scores"]) if guide.name in found else "no gradient"
                for guide in guides
            ]
            classified = found["classifier"]
            watched = [common.shown(classified["judge"]), f"{classified['diversity']:.3f}"]
            line += [one, passes, *scores, *watched]
        lines.append(line)
        console.print(*lines[-1], sep="  ", markup=False)
        jax.clear_caches()
    columns = ["size", "passes", *(guide.name for guide in guides), "judge", "diversity"]
    head = ["method", *(f"own {column}" for column in columns), *columns]
    title = (
        f"{common.conditions(num_prompts, seeds)}; T = 18; at its own size, then at the largest "
        f"that a budget of {budget} network passes per prompt pays for; passes are the mean over "
        "the rewards, judge and diversity are under the classifier's"
    )
    (output / "table.md").write_text(f"{title}\n\n{common.table(head, lines)}")


if __name__ == "__main__":
    auto_cli(main)
