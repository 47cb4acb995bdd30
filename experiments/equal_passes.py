"""Every searcher at equal network passes, on the embedded default.

    python -m experiments.equal_passes experiments/results/equal_passes

Time: about 15 minutes on 2 CPU cores, most of it compiling. Expected:
experiments/results/equal_passes/table.md.

The budget is what epsilon-greedy spends with the first paper's settings, 2089 passes per prompt;
each searcher gets the largest size that never exceeds it, whatever the scores (a tree search, whose
price hangs on them, so spends less), and otherwise its defaults. Searchers of the initial noise are
shown twice: under the first paper's sampler, whose churn forgets where it started, and without
churn, where the initial noise decides everything. Model, rewards and prompts are those of
`paper1_table.py`; `judge` is the classifier that no search sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console

import jaxsearch
from experiments.paper1_table import interval
from jaxsearch.core.budget import largest
from jaxsearch.core.process import karras
from jaxsearch.core.search import search
from jaxsearch.core.types import Objective, Problem, Prompts, Searcher, Value, Verifier
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.searchers import (
    beam,
    best_of_n,
    cross_entropy,
    epsilon_greedy,
    evolution,
    gradient,
    halving,
    markov_chain,
    mcts,
    paths,
    smc,
    svdd,
    zero_order,
)
from jaxsearch.solvers import heun
from jaxsearch.verifiers import brightness, compressibility
from jaxsearch.zoo import digits
from jaxsearch.zoo.digits.network import NO_LABEL


class Method(NamedTuple):
    """A row of the table."""

    make: Callable[[int], Searcher]  # by the size that the budget chooses
    churn: float = 40.0
    value: Value = solver_estimate()


METHODS = {
    "best-of-N": Method(lambda n: best_of_n(candidates=n)),
    "epsilon-greedy": Method(lambda n: epsilon_greedy(iterations=n)),
    "zero-order per step": Method(lambda n: epsilon_greedy(iterations=n, epsilon=0.0)),
    "random draws per step": Method(lambda n: epsilon_greedy(iterations=n, epsilon=1.0)),
    "beam": Method(lambda n: beam(width=n)),
    "SVDD, best child": Method(lambda n: svdd(particles=n)),
    "SMC": Method(lambda n: smc(particles=n)),
    "successive halving": Method(lambda n: halving(candidates=n), value=lookahead()),
    "MCTS": Method(lambda n: mcts(simulations=n)),
    "evolution, steps 0, 4, 8": Method(lambda n: evolution(generations=n, schedule=(0, 4, 8))),
    "Markov chains, all noises": Method(lambda n: markov_chain(iterations=n, injected=True)),
    "gradient, all noises": Method(lambda n: gradient(iterations=n, injected=True)),
    "zero-order": Method(lambda n: zero_order(iterations=n)),
    "search over paths": Method(lambda n: paths(candidates=n), value=lookahead()),
    "cross-entropy": Method(lambda n: cross_entropy(generations=n)),
    "gradient": Method(lambda n: gradient(iterations=n)),
    "best-of-N, no churn": Method(lambda n: best_of_n(candidates=n), churn=0.0),
    "zero-order, no churn": Method(lambda n: zero_order(iterations=n), churn=0.0),
    "search over paths, no churn": Method(
        lambda n: paths(candidates=n), churn=0.0, value=lookahead()
    ),
    "cross-entropy, no churn": Method(lambda n: cross_entropy(generations=n), churn=0.0),
    "evolution, no churn": Method(lambda n: evolution(generations=n), churn=0.0),
    "Markov chains, no churn": Method(lambda n: markov_chain(iterations=n), churn=0.0),
    "gradient, no churn": Method(lambda n: gradient(iterations=n), churn=0.0),
}


def problem_of(method: Method, guide: Verifier) -> Problem:
    """The embedded default under a method's sampler."""
    denoiser = digits.denoiser()
    return Problem(
        denoiser=denoiser,
        objective=Objective(decoder=digits.decoder(), verifiers=(guide,)),
        solver=heun(karras(denoiser.process, num_steps=18), churn=method.churn),
        value=method.value,
    )


class Found(NamedTuple):
    """What a method found under one reward."""

    scores: list[float]  # every prompt of every seed
    judge: list[float]
    passes: int  # per prompt, backward ones too, mean over all
    diversity: float  # mean over the seeds


def run(method: Method, size: int, guide: Verifier, prompts: Prompts, seeds: int) -> Found | None:
    """Searches all prompts under every seed; None where a guide has no gradient to climb."""
    problem, judge = problem_of(method, guide), digits.judge()
    searcher = method.make(size)
    scores, judged, spread, spent = [], [], [], []
    for seed in range(seeds):
        try:
            result = search(jax.random.key(seed), searcher, problem, prompts)
        except ValueError as error:
            if "no gradient" in str(error):
                return None
            raise
        scores += np.asarray(result.score, float).tolist()
        images = problem.objective.decoder(result.particle.x)
        judged += np.asarray(judge(images, prompts.context), float).tolist()
        spread.append(diversity(np.asarray(images), np.asarray(prompts.context["label"])))
        spent.append(np.asarray(result.cost.network_passes + result.cost.backward_passes))
    return Found(scores, judged, round(float(np.mean(spent))), float(np.mean(spread)))


def diversity(images: np.ndarray, labels: np.ndarray) -> float:
    """The mean distance of pictures of one label, root mean square over pixels."""
    flat = images.reshape(len(images), -1)
    distance = np.sqrt(np.mean((flat[:, None] - flat[None]) ** 2, axis=-1))
    pairs = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    return float(distance[pairs].mean())


def main(output: Path, num_prompts: int = 36, seeds: int = 3, budget: int = 2089) -> None:
    """Runs every method under every reward and writes `rows.json` and `table.md`.

    Args:
        output: a folder that has no results yet.
        num_prompts: prompts, whose labels go round 0 to 9.
        seeds: searches of each prompt.
        budget: network passes per prompt, backward ones too.
    """
    if (output / "table.md").exists():
        raise SystemExit(f"{output} already holds results: choose another --output")
    labels = jnp.arange(num_prompts, dtype=jnp.int32) % 10
    prompts = Prompts(jnp.arange(num_prompts), jnp.full_like(labels, NO_LABEL), {"label": labels})
    guides = [brightness(), compressibility(max_bytes=1000), digits.classifier()]
    head = ["method", "size", *(guide.name for guide in guides), "judge", "diversity", "passes"]
    lines = [
        f"{num_prompts} prompts x {seeds} seeds, mean ± half the 95 % interval; T = 18; budget "
        f"{budget} network passes per prompt; judge and diversity under the classifier's reward; "
        f"jax {jax.__version__}, jaxsearch {jaxsearch.__version__}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
    ]
    rows, console = [], Console(width=160)
    for name, method in METHODS.items():
        problem = problem_of(method, guides[-1])
        size = largest(method.make, problem, network_passes=budget)
        cells = [name, str(size)]
        for guide in guides:
            found = run(method, size, guide, prompts, seeds)
            if found is None:
                cells.append("no gradient")
                continue
            rows.append({"method": name, "size": size, "reward": guide.name, **found._asdict()})
            cells.append("{:.4f} ± {:.4f}".format(*interval(found.scores)))
        cells += [
            "{:.4f} ± {:.4f}".format(*interval(found.judge)), f"{found.diversity:.3f}",
            str(found.passes),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
        console.print(lines[-1], markup=False)
        jax.clear_caches()
    output.mkdir(parents=True, exist_ok=True)
    (output / "rows.json").write_text(json.dumps(rows))
    (output / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    auto_cli(main)
