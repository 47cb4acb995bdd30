"""Which searcher would you pick, by budget? Captioned scenes, one figure.

    python -m experiments.scenes_by_budget experiments/results/scenes_by_budget

Time: an hour at most on 2 CPU cores. Expected: experiments/results/scenes_by_budget/{table.md,
gains.png}.

The searchers of `scenes_common.METHODS` under the learnt alignment, each at the largest size that
never exceeds 160 to 1280 network passes a caption (4 to 32 plain samples). The figure has what each
finds more than random search does at the same budget, of the same caption under the same seed: in
what it raises, and in whether the pictures are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jsonargparse import auto_cli

from experiments import common
from experiments.scenes_common import METHODS, PLAIN_PASSES, SAMPLER, Sheet

BUDGETS = (160, 640, 1280)
BASELINE = "random"
PLAIN = (BASELINE, "random, ODE")
"""Methods whose single candidate is a plain sample."""


def main(output: Path, num_prompts: int = 64, seeds: int = 2) -> None:
    """Writes `rows.jsonl`, `table.md` and `gains.png`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
    """
    sheet = Sheet(output, num_prompts, seeds)

    def found(name: str, budgets: tuple[int, ...]) -> dict[int, dict[str, Any]]:
        method = METHODS[name]
        problem_ = method.problem("alignment")
        rows = {
            budget: sheet.within(method, problem_, budget, method=name, guide="alignment")
            for budget in budgets
        }
        return {budget: row for budget, row in rows.items() if row is not None}

    for name in PLAIN:
        found(name, (PLAIN_PASSES,))
    rows = {name: found(name, BUDGETS) for name in METHODS}
    sheet.write(f"{SAMPLER}; guided by alignment")
    draw_gains(output / "gains.png", rows, ("alignment", "graded", "exact"))


def draw_gains(
    path: Path, rows: dict[str, dict[int, dict[str, Any]]], watched: tuple[str, ...]
) -> None:
    """What methods find more than the baseline does at the same budget, with 95 % intervals.

    Args:
        path: of the picture.
        rows: method -> budget -> what was found.
        watched: names of scores, a panel for each.
    """
    names = [name for name in rows if name != BASELINE]
    size = (4 * len(watched) + 1.5, 0.4 * len(names) + 1)
    figure, axes = plt.subplots(1, len(watched), figsize=size, sharey=True, squeeze=False)
    for axis, score in zip(axes[0], watched, strict=True):
        for number, (budget, base) in enumerate(rows[BASELINE].items()):
            there = [place for place, name in enumerate(names) if budget in rows[name]]
            gains = [
                np.subtract(rows[names[place]][budget]["scores"][score], base["scores"][score])
                for place in there
            ]
            middle, half = np.transpose([common.interval(gain.tolist()) for gain in gains])
            height = np.asarray(there) + 0.22 * (number - 1)
            axis.errorbar(middle, height, xerr=half, fmt="o", ms=4, label=f"{budget} passes")
        axis.axvline(0, color="grey", lw=0.8)
        axis.set(xlabel=f"{score}, above that of random search", yticks=range(len(names)))
        axis.set_yticklabels(names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(BUDGETS))
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / size[1]))
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    auto_cli(main)
