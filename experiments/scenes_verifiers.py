"""Verifiers x algorithms on captioned scenes, at equal network passes.

    python -m experiments.scenes_verifiers experiments/results/scenes_verifiers

Time: about 15 minutes on 2 CPU cores. Expected: experiments/results/scenes_verifiers/table.md.

The tables of Ma et al. 2025 on DrawBench and T2I-CompBench, in a world where the truth is known:
captions of four tasks, searched by each algorithm under each verifier, and every result looked at
by all of them. `exact` is the share of pictures that show exactly what was asked for; a search
guided by it (graded) is what could be had with a perfect verifier. A plain sample costs 40 network
passes (20 steps, guidance); each searcher gets the largest size that never exceeds the budget.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console

from experiments import common
from experiments.scenes_quality import HELD_OUT
from jaxsearch.core.aggregate import mean_rank, total
from jaxsearch.core.budget import largest
from jaxsearch.core.process import shifted
from jaxsearch.core.search import search
from jaxsearch.core.types import Aggregate, Objective, Problem, Searcher, Value, Verifier
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.searchers import FREE_SIZE, SEARCHERS
from jaxsearch.solvers import first_order
from jaxsearch.zoo import scenes
from jaxsearch.zoo.scenes.captions import read

GUIDES: dict[str, tuple[tuple[Verifier, ...], Aggregate]] = {
    "exact": ((scenes.exact(form="graded"),), total()),
    "alignment": ((scenes.alignment(),), total()),
    "attributes": ((scenes.attributes(),), total()),
    "taste": ((scenes.taste(),), total()),
    "ranks of the three": (
        (scenes.alignment(), scenes.attributes(), scenes.taste()),
        mean_rank(),
    ),
}
METHODS: dict[str, tuple[str, dict[str, Any], Value]] = {
    "random": ("best_of_n", {}, solver_estimate()),
    "zero-order": ("zero_order", {}, solver_estimate()),
    "search over paths": ("paths", {}, lookahead()),
    "epsilon-greedy": ("epsilon_greedy", {}, solver_estimate()),
    "beam": ("beam", {}, solver_estimate()),
    "SVDD": ("svdd", {}, solver_estimate()),
    "successive halving": ("halving", {}, solver_estimate()),
}


def problem(guide: str, value: Value) -> Problem:
    """Scenes under the stochastic first-order sampler at the command's defaults."""
    denoiser, (verifiers, aggregate) = scenes.denoiser(), GUIDES[guide]
    return Problem(
        denoiser=denoiser,
        objective=Objective(decoder=scenes.decoder(), verifiers=verifiers, aggregate=aggregate),
        solver=first_order(shifted(denoiser.process, num_steps=20)),
        value=value,
    )


def main(output: Path, num_prompts: int = 64, seeds: int = 2, budget: int = 640) -> None:
    """Searches all captions by every method under every guide; writes `rows.jsonl`, `table.md`.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
        budget: network passes per caption.
    """
    texts = scenes.prompt_set(num_prompts, seed=HELD_OUT)
    prompts, tasks = scenes.prompts(texts), np.array([read(text).task for text in texts])
    rows, console = common.Rows(output, prompts, seeds), Console(width=160)
    watching = (scenes.exact(), scenes.alignment(), scenes.attributes(), scenes.taste())

    def measure(searcher: Searcher, problem_: Problem) -> dict[str, Any]:
        scores: dict[str, list[float]] = {one.name: [] for one in watching}
        spent, begin = [], time.perf_counter()
        for seed in range(seeds):
            result = search(jax.random.key(seed), searcher, problem_, prompts)
            images = problem_.objective.decoder(result.particle.x)
            for one in watching:
                scores[one.name] += np.asarray(one(images, prompts.context)).tolist()
            spent.append(float(np.mean(result.cost.network_passes)))
        seconds = time.perf_counter() - begin
        return {"scores": scores, "passes": round(np.mean(spent)), "seconds": seconds}

    lines = []

    def note(method: str, guide: str, size: int, searcher: Searcher, problem_: Problem) -> None:
        row = rows.get(lambda: measure(searcher, problem_), method=method, guide=guide, size=size)
        scores = {name: np.asarray(values) for name, values in row["scores"].items()}
        by_task = [
            f"{scores['exact'][np.tile(tasks == task, seeds)].mean():.2f}" for task in scenes.TASKS
        ]
        learnt = [common.shown(scores[one.name].tolist()) for one in watching[1:]]
        lines.append(
            [method, guide, size, row["passes"], *by_task,
             common.shown(scores["exact"].tolist()), *learnt, f"{row['seconds']:.0f}"]
        )  # fmt: skip
        console.print(*lines[-1], sep="  ", markup=False)

    note(
        "plain",
        "none",
        1,
        SEARCHERS["best_of_n"](candidates=1),
        problem("exact", solver_estimate()),
    )
    for method, (name, settings, value) in METHODS.items():
        for guide in GUIDES:
            problem_ = problem(guide, value)

            def make(size: int, name: str = name, settings: dict[str, Any] = settings) -> Searcher:
                return SEARCHERS[name](**{FREE_SIZE[name]: size}, **settings)

            size = largest(make, problem_, network_passes=budget)
            note(method, guide, size, make(size), problem_)
            jax.clear_caches()
    head = ["method", "guide", "size", "passes", *scenes.TASKS, "exact", "alignment", "attributes",
            "taste", "seconds"]  # fmt: skip
    title = (
        f"{common.conditions(num_prompts, seeds)}; 20 steps, guidance 2; at most {budget} network "
        "passes a caption. Tasks: the share that is exactly right. Seconds with compiling."
    )
    (output / "table.md").write_text(f"{title}\n\n{common.table(head, lines)}")


if __name__ == "__main__":
    auto_cli(main)
