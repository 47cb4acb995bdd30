"""Which searcher would you pick, by budget? Captioned scenes, one figure.

    python -m experiments.scenes_by_budget experiments/results/scenes_by_budget

Time: about 20 minutes on 2 CPU cores. Expected: experiments/results/scenes_by_budget/{table.md,
curves.png}.

The searchers of `scenes_common.METHODS` under the learnt alignment, each at the largest size that
never exceeds 160 to 1280 network passes a caption (4 to 32 plain samples); what they raise, and
whether the pictures are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from experiments.scenes_common import METHODS, PLAIN_PASSES, SAMPLER, Sheet, draw

BUDGETS = (160, 640, 1280)
PLAIN = {"random": 1.0, "random, ODE": 0.0}
"""Methods whose single candidate is a plain sample, and their noise."""


def main(output: Path, num_prompts: int = 64, seeds: int = 2) -> None:
    """Writes `rows.jsonl`, `table.md` and `curves.png`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
    """
    sheet = Sheet(output, num_prompts, seeds)

    def found(name: str, budgets: tuple[int, ...]) -> list[dict[str, Any]]:
        method, rows = METHODS[name], []
        problem_ = method.problem("alignment")
        for budget in budgets:
            try:
                size, searcher = method.within(problem_, budget)
            except ValueError as error:  # too dear
                sheet.refused(error, method=name, budget=budget)
            else:
                rows.append(
                    sheet.row(searcher, problem_, method=name, guide="alignment", size=size)
                )
        return rows

    plain = {eta: found(name, (PLAIN_PASSES,)) for name, eta in PLAIN.items()}
    curves = {name: plain[METHODS[name].eta] + found(name, BUDGETS) for name in METHODS}
    sheet.write(f"{SAMPLER}; guided by alignment")
    across = {"passes": "network passes a caption, backward ones too"}
    draw(output / "curves.png", curves, ("alignment", "graded", "exact"), across)


if __name__ == "__main__":
    auto_cli(main)
