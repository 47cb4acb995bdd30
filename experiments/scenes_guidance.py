"""Guidance scale x search on captioned scenes.

    python -m experiments.scenes_guidance experiments/results/scenes_guidance

Time: about 6 minutes on 2 CPU cores. Expected: experiments/results/scenes_guidance/table.md.

Classifier-free guidance makes samples keep to their captions at the price of their variety, which
is what a search lives on. The best of as many candidates as a budget pays for, chosen by the learnt
alignment, at each scale: 40 passes are one sample with guidance and two without.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from experiments.scenes_common import METHODS, Sheet

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
BUDGETS = (40, 160, 640)


def main(output: Path, num_prompts: int = 64, seeds: int = 2) -> None:
    """Writes `rows.jsonl` and `table.md`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
    """
    sheet = Sheet(output, num_prompts, seeds)
    for budget in BUDGETS:
        for scale in SCALES:
            problem_ = METHODS["random"].problem("alignment", guidance=scale)
            size, searcher = METHODS["random"].within(problem_, budget)
            sheet.row(searcher, problem_, guidance=scale, candidates=size)
    sheet.write("20 steps, the stochastic sampler")


if __name__ == "__main__":
    auto_cli(main)
