"""Reward against network passes, from 10 to 10,000, for every searcher on the embedded default.

    python -m experiments.passes experiments/results/passes

Time: about an hour on 2 CPU cores, most of it compiling. Expected:
experiments/results/passes/{table.md,curves.png}.

At each budget a searcher gets the largest size that never exceeds it, and otherwise its defaults
(the methods of `equal_passes.py`; those that move the initial noise only are run without churn).
Under the classifier's reward the judge, a second classifier that no search sees, says whether what
was found is real; under brightness its largest probability of any digit says whether there is a
digit left. Diversity is the mean distance of pictures of one label. The sampler takes 18 steps and
a plain sample 35 passes; where the budget is less than that it takes 5 steps and 9 passes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from jsonargparse import auto_cli
from matplotlib import color_sequences
from rich.console import Console

from experiments import common
from experiments.equal_passes import METHODS
from jaxsearch.core.budget import largest
from jaxsearch.verifiers import brightness
from jaxsearch.zoo import digits

BUDGETS = (10, 100, 316, 1000, 10000)
PLAIN = 35  # passes of a plain sample of 18 steps
SHOWN = (
    *("best-of-N", "epsilon-greedy", "zero-order per step", "beam", "SVDD, best child", "SMC"),
    "rollover budget forcing",
    *("successive halving", "MCTS", "evolution, steps 0, 4, 8", "search over paths"),
    *("Markov chains, all noises", "gradient, all noises"),
    *("zero-order, no churn", "cross-entropy, no churn", "gradient, no churn"),
)


def main(output: Path, num_prompts: int = 36, seeds: int = 1) -> None:
    """Runs every method at every budget and writes `rows.jsonl`, `table.md` and `curves.png`.

    Args:
        output: a folder that has no results yet.
        num_prompts: prompts, whose labels go round 0 to 9.
        seeds: searches of each prompt.
    """
    rows, console = common.Rows(output, common.prompts(num_prompts), seeds), Console(width=160)
    for name in SHOWN:
        method = METHODS[name]
        for budget in BUDGETS:
            num_steps = 5 if budget < PLAIN else 18
            guides = (digits.classifier(), brightness())
            problems = [method.problem(guide, num_steps) for guide in guides]
            try:
                size = largest(method.make, problems[0], network_passes=budget)
            except ValueError as error:  # too dear, or not for so few steps
                console.print(f"{name} {budget}: {error}")
                continue
            searcher = method.make(size)
            for guide, problem in zip(guides, problems, strict=True):
                row = rows.search(
                    searcher, problem, reward=guide.name, method=name, budget=budget, size=size
                )
                mean, passes = np.mean(row["scores"]), row["passes"]
                console.print(f"{guide.name} {name} {budget}: {mean:.4f}, {passes} passes")
            jax.clear_caches()
    (output / "table.md").write_text(page(rows.rows, common.conditions(num_prompts, seeds)))
    draw(rows.rows, output / "curves.png")


class Watched(NamedTuple):
    """What is shown beside a guide, which no search sees."""

    field: str
    label: str


WATCHED = {
    "classifier": Watched("judge", "the judge's probability of the label"),
    "brightness": Watched("certain", "the judge's probability of its likeliest digit"),
}


def page(records: list[dict], title: str) -> str:
    """Tables of every figure: methods down, budgets across, a dash where nothing can be paid."""
    sections = [title]
    for reward, watched in WATCHED.items():
        mine = {(r["method"], r["budget"]): r for r in records if r["reward"] == reward}
        fields: dict[str, tuple[str, Callable[[Any], str]]] = {
            "scores": ("the guide's score", common.shown),
            watched.field: (watched.label, common.shown),
            "diversity": ("diversity", "{:.3f}".format),
            "passes": ("network passes spent", str),
        }
        for field, (label, text) in fields.items():
            lines = [
                [name, *(text(mine[name, b][field]) if (name, b) in mine else "-" for b in BUDGETS)]
                for name in SHOWN
            ]
            table = common.table(["method", *map(str, BUDGETS)], lines)
            sections.append(f"## Guided by {reward}: {label}\n\n{table}")
    return "\n\n".join(sections)


def draw(records: list[dict], path: Path) -> None:
    """Guide, watcher and diversity against passes, a column for each reward."""
    figure, axes = plt.subplots(3, len(WATCHED), figsize=(6 * len(WATCHED), 11), sharex=True)
    styles = [(colour, line) for line in ("-", ":") for colour in color_sequences["tab10"]]
    for column, (reward, watched) in enumerate(WATCHED.items()):
        fields = (("scores", f"{reward}, the guide"), watched, ("diversity", "diversity"))
        for axis, (field, label) in zip(axes[:, column], fields, strict=True):
            for (colour, line), name in zip(styles, SHOWN, strict=False):
                mine = [r for r in records if (r["reward"], r["method"]) == (reward, name)]
                axis.plot(
                    [r["passes"] for r in mine], [np.mean(r[field]) for r in mine],
                    marker=".", color=colour, linestyle=line, label=name,
                )  # fmt: skip
            axis.set(xscale="log", ylabel=label)
        axes[-1, column].set_xlabel("network passes per prompt, backward ones too")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=4)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    auto_cli(main)
