"""A small model with search against a large one without: captioned scenes, at equal FLOPs.

    python -m experiments.scenes_sizes experiments/results/scenes_sizes

Time: about 10 minutes on 2 CPU cores. Expected: experiments/results/scenes_sizes/{table.md,
curves.png}.

The question of Ma et al. 2025, section 5.3 (SiT-L with search against SiT-XL; PixArt-Sigma against
FLUX). The best of 1 to 32 candidates of the small model and of 1 to 8 of the large one, chosen by
the learnt alignment and by the exact check (graded), against the FLOPs of all network passes,
decodes and verifier calls, as `jaxsearch plan` counts them.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import auto_cli

from experiments.scenes_common import SAMPLER, Sheet, draw, problem
from jaxsearch.searchers import best_of_n
from jaxsearch.zoo import scenes
from jaxsearch.zoo.scenes.load import Size

CANDIDATES: dict[Size, tuple[int, ...]] = {
    "small": (1, 2, 4, 8, 16, 32),
    "large": (1, 2, 4, 8, 16),
}


def main(output: Path, num_prompts: int = 64, seeds: int = 2) -> None:
    """Writes `rows.jsonl`, `table.md` and `curves.png`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
    """
    sheet = Sheet(output, num_prompts, seeds)
    curves = {
        f"{size}, guided by {guide}": [
            sheet.row(
                best_of_n(candidates=candidates), problem(guide, size=size),
                scenes.prompts(sheet.captions.texts, size=size),
                model=size, guide=guide, candidates=candidates,
            )
            for candidates in numbers
        ]
        for guide in ("alignment", "exact, graded")
        for size, numbers in CANDIDATES.items()
    }  # fmt: skip
    sheet.write(SAMPLER)
    across = {"flops": "FLOPs a caption"}
    draw(output / "curves.png", curves, ("exact", "graded", "alignment"), across)


if __name__ == "__main__":
    auto_cli(main)
