"""When a search goes too far: captioned scenes, guided by a taste that can be fooled.

    python -m experiments.scenes_overoptimisation experiments/results/scenes_overoptimisation

Time: half an hour on 2 CPU cores that others used too. Expected:
experiments/results/scenes_overoptimisation/{table.md,curves.png}.

The guide is a small network that learnt a rule, symmetric and colourful, from scenes alone and
knows nothing of captions. As it is searched harder its score rises; whether pictures are right
(`exact`), fit their captions (`alignment`) and are scenes at all (the Frechet distance and the
recall of Kynkaanniemi et al. 2019 against scenes drawn for the same captions, in the features of
the contrastive model) says what that costs. Beside it what is thought to help: ensembles (the sum
in units of plain samples' deviations, the worst of the guides), local search (neighbours at a
cosine of 0.99), and stopping at a score that one plain sample in ten has. `real` are other scenes
drawn for the same captions: what a perfect sampler would have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli

from experiments.scenes_common import (
    METHODS,
    SAMPLER,
    Captions,
    Method,
    Sheet,
    captions,
    draw,
)
from jaxsearch.core.types import Searcher
from jaxsearch.metrics import frechet_distance, precision_recall
from jaxsearch.metrics.moments import Statistics
from jaxsearch.metrics.population import population
from jaxsearch.searchers import early_stop
from jaxsearch.zoo.features import scenes
from jaxsearch.zoo.scenes.captions import read
from jaxsearch.zoo.scenes.data import HELD_OUT, arrange
from jaxsearch.zoo.scenes.world import NUM_CELLS, NUM_TINTS, OFFSETS, Scene
from jaxsearch.zoo.scenes.world import draw as draw_scenes

BUDGETS = (160, 640, 1280)
ENOUGH = 0.7
"""A taste that about one plain sample in ten has."""
CURVES: dict[str, tuple[Method, str, float | None]] = {
    "random, taste": (METHODS["random"], "taste", None),
    "epsilon-greedy, taste": (METHODS["epsilon-greedy"], "taste", None),
    "zero-order, taste": (METHODS["zero-order, ODE"], "taste", None),
    "local zero-order, taste": (Method("zero_order", {"step": 0.99}, eta=0.0), "taste", None),
    "gradient, taste": (METHODS["gradient, ODE"], "taste", None),
    "gradient, taste, early stop": (METHODS["gradient, ODE"], "taste", ENOUGH),
    "gradient, weighted": (METHODS["gradient, ODE"], "weighted", None),
    "gradient, worst": (METHODS["gradient, ODE"], "worst of the three", None),
}


def real(asked: Captions, times: int, seed: int) -> np.ndarray:
    """Scenes [times * P, 48, 48, 3] in [0, 1] that show what captions ask for."""
    rng = np.random.default_rng(seed)
    kinds = np.stack([arrange(read(text), rng) for _ in range(times) for text in asked.texts])
    tint = rng.integers(NUM_TINTS, size=len(kinds))
    offset = rng.integers(len(OFFSETS), size=(len(kinds), NUM_CELLS))
    return np.asarray(draw_scenes(Scene(*map(jnp.asarray, (tint, kinds, offset)))))


def against(asked: Captions, seeds: int) -> Callable[[np.ndarray], dict[str, float]]:
    """How far images [n,48,48,3] are from as many real scenes."""
    extractor = scenes(network="contrastive")

    def seen(images: np.ndarray) -> tuple[Statistics, np.ndarray]:
        found = population(extractor, [images])
        assert found.statistics is not None
        assert found.features is not None
        return found.statistics, found.features

    reference = seen(real(asked, seeds, HELD_OUT))

    def far(images: np.ndarray) -> dict[str, float]:
        made = seen(images)
        distance = frechet_distance(reference[0], made[0])
        both = precision_recall(reference[1], made[1])
        return {"frechet": distance, "precision": both.precision, "recall": both.recall}

    return far


def main(output: Path, num_prompts: int = 64, seeds: int = 2) -> None:
    """Writes `rows.jsonl`, `table.md` and `curves.png`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
    """
    far = against(captions(num_prompts), seeds)
    sheet = Sheet(output, num_prompts, seeds, population=far)

    def found(name: str) -> list[dict[str, Any]]:
        method, guide, enough = CURVES[name]
        problem_ = method.problem(guide)

        def wrap(searcher: Searcher) -> Searcher:
            return searcher if enough is None else early_stop(searcher, threshold=enough)

        rows = [sheet.within(method, problem_, one, wrap=wrap, search=name) for one in BUDGETS]
        return [plain[method.eta], *(row for row in rows if row is not None)]

    plain = {}
    for name in ("random", "random, ODE"):
        method = METHODS[name]
        row = sheet.row(method.make(1), method.problem("taste"), search=f"{name}, taste", size=1)
        plain[method.eta] = row
    curves = {name: found(name) for name in CURVES}
    floor = far(real(sheet.captions, seeds, HELD_OUT + 1))
    said = ", ".join(f"{name} {value:.3f}" for name, value in floor.items())
    sheet.write(f"{SAMPLER}; real: {said}")
    across = {"passes": "network passes a caption, backward ones too"}
    draw(output / "curves.png", curves, ("taste", "exact", "alignment"), across)


if __name__ == "__main__":
    auto_cli(main)
