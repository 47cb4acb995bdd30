"""Verifiers x algorithms on captioned scenes, at equal network passes.

    python -m experiments.scenes_verifiers experiments/results/scenes_verifiers

Time: an hour on 2 CPU cores that others used too. Expected:
experiments/results/scenes_verifiers/table.md.

The tables of Ma et al. 2025 on DrawBench and T2I-CompBench, in a world where the truth is known:
captions of four tasks, searched by the paper's three algorithms and by epsilon-greedy under each
verifier and each ensemble of them, by every other searcher under one, and every result looked at
by all. `exact` is the share of pictures that show exactly what was asked for, and nothing else; a
search guided by it (graded) is what could be had with a perfect verifier. A plain sample costs 40
network passes; each searcher gets the largest size that never exceeds the budget.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from experiments.scenes_common import GUIDES, METHODS, PLAIN_PASSES, SAMPLER, Sheet

UNDER_EVERY_GUIDE = ("random", "zero-order, ODE", "search over paths", "epsilon-greedy")
"""The methods that are tried with all verifiers; the others with the first."""


def main(output: Path, num_prompts: int = 64, seeds: int = 2, budget: int = 640) -> None:
    """Searches all captions by every method; writes `rows.jsonl` and `table.md`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
        budget: network passes per caption.
    """
    sheet = Sheet(output, num_prompts, seeds)

    def note(name: str, method: str, guide: str, budget: int) -> None:
        problem_ = METHODS[method].problem(guide)
        sheet.within(METHODS[method], problem_, budget, method=name, guide=guide)

    note("plain", "random", "alignment", PLAIN_PASSES)
    note("plain, ODE", "random, ODE", "alignment", PLAIN_PASSES)
    for method in METHODS:
        for guide in GUIDES if method in UNDER_EVERY_GUIDE else list(GUIDES)[:1]:
            note(method, method, guide, budget)
    sheet.write(f"{SAMPLER}; at most {budget} network passes a caption")


if __name__ == "__main__":
    auto_cli(main)
