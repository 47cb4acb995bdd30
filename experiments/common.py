"""What the experiments on the embedded default share: the problem, a measured search, a table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import jaxsearch
from jaxsearch.core.process import karras
from jaxsearch.core.search import search
from jaxsearch.core.types import Array, Objective, Problem, Prompts, Searcher, Value, Verifier
from jaxsearch.core.value import solver_estimate
from jaxsearch.solvers import heun
from jaxsearch.verifiers import brightness, compressibility
from jaxsearch.zoo import digits
from jaxsearch.zoo.digits.network import NO_LABEL

PAPER_CHURN = 40.0


def guides() -> list[Verifier]:
    """The first paper's three rewards; JPEG sizes count from 1000 bytes, pictures being small."""
    return [brightness(), compressibility(max_bytes=1000), digits.classifier()]


def prompts(num: int) -> Prompts:
    """Digits drawn without a label, so that the classifier's reward has room; labels go round."""
    if num < 11:
        raise SystemExit(f"num_prompts is {num}: take 11 or more, for two of a label")
    labels = jnp.arange(num, dtype=jnp.int32) % 10
    return Prompts(jnp.arange(num), jnp.full_like(labels, NO_LABEL), {"label": labels})


def problem(
    guide: Verifier,
    *,
    num_steps: int = 18,
    churn: float = PAPER_CHURN,
    value: Value = solver_estimate(),
) -> Problem:
    """The embedded default under the first paper's sampler."""
    denoiser = digits.denoiser()
    return Problem(
        denoiser=denoiser,
        objective=Objective(decoder=digits.decoder(), verifiers=(guide,)),
        solver=heun(karras(denoiser.process, num_steps=num_steps), churn=churn),
        value=value,
    )


class Found(NamedTuple):
    """What a search found for every prompt under every seed, and what it cost."""

    scores: list[float]  # every prompt of every seed
    judge: list[float]  # of the classifier that no search sees, for the label asked for
    certain: list[float]  # its largest probability of any label
    diversity: float  # mean over the seeds
    passes: int  # network passes of a prompt, backward ones too, mean over all
    solver_steps: int
    verifier_calls: int
    seconds: float  # of all seeds, compiled
    compile_seconds: float


def measure(searcher: Searcher, problem: Problem, prompts: Prompts, seeds: int) -> Found:
    """Searches all prompts under every seed, with one program.

    Raises:
        ValueError: if the parts do not go together.
    """
    begin = time.perf_counter()
    program = search.lower(jax.random.key(0), searcher, problem, prompts).compile()
    compile_seconds = time.perf_counter() - begin
    keys = [jax.random.key(seed) for seed in range(seeds)]
    jax.block_until_ready(program(keys[0], problem, prompts))  # the first call reads it in
    begin = time.perf_counter()
    results = [jax.block_until_ready(program(key, problem, prompts)) for key in keys]
    seconds = time.perf_counter() - begin
    images = [problem.objective.decoder(result.particle.x) for result in results]
    judge, labels = digits.judge(), np.asarray(prompts.context["label"])
    judged = np.asarray(  # [labels, seeds, P]
        [
            [judge(one, {"label": jnp.full_like(labels, label)}) for one in images]
            for label in range(10)
        ]
    )

    def spent(field: str) -> int:
        return round(float(np.mean([getattr(result.cost, field) for result in results])))

    return Found(
        scores=np.concatenate([result.score for result in results]).tolist(),
        judge=judged[labels, :, np.arange(len(labels))].T.ravel().tolist(),
        certain=np.max(judged, axis=0).ravel().tolist(),
        diversity=float(np.mean([diversity(one, labels) for one in images])),
        passes=spent("network_passes") + spent("backward_passes"),
        solver_steps=spent("solver_steps"),
        verifier_calls=spent("verifier_calls"),
        seconds=seconds,
        compile_seconds=compile_seconds,
    )


def diversity(images: Array, labels: np.ndarray) -> float:
    """The mean distance of pictures of one label, root mean square over pixels."""
    flat = np.asarray(images).reshape(len(images), -1)
    distance = np.sqrt(np.mean((flat[:, None] - flat[None]) ** 2, axis=-1))
    pairs = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    return float(distance[pairs].mean())


def interval(values: list[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval (Student's t)."""
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(half)


def shown(values: list[float]) -> str:
    """The mean and its interval as text."""
    return "{:.4f} ± {:.4f}".format(*interval(values))


def conditions(num_prompts: int, seeds: int) -> str:
    """What stands above every table."""
    return (
        f"{num_prompts} prompts x {seeds} seeds, mean ± half the 95 % interval; "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, jaxsearch {jaxsearch.__version__}"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


class Rows:
    """The rows of an experiment, each written when it is measured: a killed run goes on from them.

    Args:
        output: a folder without a finished table.
        prompts: [P] what is searched.
        seeds: searches of each prompt.
    """

    def __init__(self, output: Path, prompts: Prompts, seeds: int) -> None:
        if (output / "table.md").exists():
            raise SystemExit(f"{output} holds results already: take another folder, or remove it")
        output.mkdir(parents=True, exist_ok=True)
        self.path = output / "rows.jsonl"
        self.prompts, self.seeds = prompts, seeds
        there = self.path.read_text() if self.path.exists() else ""
        # A row that was being written when the run was killed has no end of line.
        there = there[: there.rfind("\n") + 1]
        self.path.write_text(there)
        self._there = [json.loads(line) for line in there.splitlines()]
        self.rows: list[dict[str, Any]] = []  # of this run, whatever else the file holds

    def get(self, measured: Callable[[], dict[str, Any]], **name: Any) -> dict[str, Any]:
        """The row of that name: measured, unless it is there already."""
        name |= {"prompts": self.prompts.ids.size, "seeds": self.seeds}
        row = next((row for row in self._there if row.items() >= name.items()), None)
        if row is None:
            row = name | measured()
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self._there.append(row)
        self.rows.append(row)
        return row

    def search(self, searcher: Searcher, problem: Problem, **name: Any) -> dict[str, Any]:
        """The row of a search."""
        return self.get(
            lambda: measure(searcher, problem, self.prompts, self.seeds)._asdict(), **name
        )
