"""Search against more denoising steps on captioned scenes, in network passes and in seconds.

    python -m experiments.scenes_scaling experiments/results/scenes_scaling

Time: 6 minutes on 2 CPU cores. Expected: experiments/results/scenes_scaling/{table.md,
curves.png}.

The question of Ma et al. 2025, section 1 and figure 1: a sampler can spend more on steps, or on
candidates. Plain samples of 5 to 160 steps beside the best of 1 to 32 candidates of 20 steps, the
random search of the paper, chosen by the learnt alignment and by the exact check (graded), which is
what a perfect verifier would choose.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from experiments.scenes_common import Sheet, draw, problem
from jaxsearch.searchers import best_of_n

STEPS = (5, 10, 20, 40, 80, 160)
CANDIDATES = (1, 2, 4, 8, 16, 32)


def main(output: Path, num_prompts: int = 64, seeds: int = 2) -> None:
    """Writes `rows.jsonl`, `table.md` and `curves.png`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
    """
    sheet = Sheet(output, num_prompts, seeds, timed=True)
    curves = {}

    def curve(name: str, guide: str, sizes: list[tuple[int, int]]) -> None:
        curves[name] = [
            sheet.row(
                best_of_n(candidates=candidates), problem(guide, num_steps=steps),
                curve=name, steps=steps, candidates=candidates,
            )
            for steps, candidates in sizes
        ]  # fmt: skip

    curve("more steps", "alignment", [(steps, 1) for steps in STEPS])
    for guide in ("alignment", "exact, graded"):
        curve(f"search guided by {guide}", guide, [(20, number) for number in CANDIDATES])
    sheet.write("guidance 2, the stochastic sampler")
    across = {"passes": "network passes a caption", "seconds": "seconds a caption"}
    draw(output / "curves.png", curves, ("exact", "alignment"), across)


if __name__ == "__main__":
    auto_cli(main)
