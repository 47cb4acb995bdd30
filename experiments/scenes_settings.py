"""What the settings of searchers do on captioned scenes, at equal network passes.

    python -m experiments.scenes_settings experiments/results/scenes_settings

Time: 14 minutes on 2 CPU cores that others used too. Expected:
experiments/results/scenes_settings/table.md.

The ablations of both papers in this world, guided by the learnt alignment. Ma et al. 2025: passes
per iteration (here the steps of the sampler that makes a candidate), the neighbours of a zero-order
search and how near they are, the number and the length of paths. Ramesh & Mardani 2025: the share
of global draws epsilon, the radius lambda, candidates N against iterations K, and which steps are
searched (their K_t schedules). Each searcher has the largest size that the budget pays for.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from experiments.scenes_common import METHODS, SAMPLER, Sheet

STEPS = (10, 20, 40)
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "zero-order, ODE": [
        *({"neighbours": number} for number in (2, 4, 8)),
        *({"step": cosine} for cosine in (0.5, 0.99)),
    ],
    "search over paths": [
        *({"paths": number} for number in (1, 2, 4)),
        *(
            {"level": 0.15, "forward": forward, "backward": round(forward + 0.15, 2)}
            for forward in (0.3, 0.5)
        ),
    ],
    "epsilon-greedy": [
        *({"epsilon": share} for share in (0.0, 0.4, 1.0)),
        *({"radius": radius} for radius in (0.05, 0.5)),
        *({"candidates": number} for number in (2, 8)),
        *({"window": window} for window in ((1.0, math.inf), (0.0, 1.0))),
    ],
}


def main(output: Path, num_prompts: int = 64, seeds: int = 2, budget: int = 640) -> None:
    """Writes `rows.jsonl` and `table.md`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
        budget: network passes per caption.
    """
    sheet = Sheet(output, num_prompts, seeds)

    def note(name: str, settings: dict[str, Any], num_steps: int = 20, **said: Any) -> None:
        method = METHODS[name]._replace(settings=settings)
        problem_ = method.problem("alignment", num_steps=num_steps)
        text = ", ".join(f"{key} {value}" for key, value in {**settings, **said}.items())
        sheet.within(method, problem_, budget, method=name, setting=text)

    for steps in STEPS:
        note("random", {}, steps, steps=steps)
    for name, several in SETTINGS.items():
        for settings in several:
            note(name, settings)
    sheet.write(f"{SAMPLER}; guided by alignment, at most {budget} network passes a caption")


if __name__ == "__main__":
    auto_cli(main)
