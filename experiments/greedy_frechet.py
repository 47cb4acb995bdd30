"""The Frechet distance as an oracle: what a search that sees the population makes of it.

Command: `python -m experiments.greedy_frechet` (about two minutes on 2 CPU cores). Digits of the
unconditional model, best of a few by several guides, in the judge's features; the reference that
the oracle sees is one half of the real digits, and figures are given against the other half too,
from which the judge has learnt. The plain digits that the population begins with count in all rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table

from jaxsearch import Objective, Problem, Prompts, sample, search_in_groups, solver_estimate
from jaxsearch.core.process import edm, karras
from jaxsearch.core.types import Array, SearchResult, Verifier
from jaxsearch.metrics import frechet_distance, precision_recall, statistics_of
from jaxsearch.metrics.greedy import running
from jaxsearch.searchers import best_of_n
from jaxsearch.solvers import heun
from jaxsearch.verifiers.frechet import FrechetOracle
from jaxsearch.zoo import digits as model
from jaxsearch.zoo.digits.data import splits
from jaxsearch.zoo.features import digits

_SOLVER = heun(karras(edm(), num_steps=18))


def problem_with(*verifiers: Verifier) -> Problem:
    """Digits of 8x8 pixels; so verifiers see them as they are."""
    return Problem(
        denoiser=model.denoiser(),
        objective=Objective(decoder=model.decoder(enlarge=1), verifiers=verifiers),
        solver=_SOLVER,
        value=solver_estimate(),
    )


def prompts_of(num: int) -> Prompts:
    """Any digit, with labels for the guide that asks for some."""
    return Prompts(
        ids=jnp.arange(num),
        cond=jnp.full(num, model.NO_LABEL, jnp.int32),
        context={"label": jnp.arange(num, dtype=jnp.int32) % 10},
    )


def main(num: int = 600, first: int = 200, candidates: int = 4, seed: int = 0) -> None:
    """Prints a table.

    Args:
        num: prompts, a multiple of 20.
        first: plain samples that the oracle's population begins with.
        candidates: of each prompt.
        seed: of the noise.
    """
    extractor, decoder = digits(), model.decoder(enlarge=1)
    extract = jax.jit(lambda x: extractor.apply(extractor.params, decoder(x)).features)
    halves = [np.asarray(extract(jnp.asarray(one.pixels))) for one in splits()[:2]]
    seen, unseen = (statistics_of(one) for one in halves)
    key, key_first = jax.random.split(jax.random.key(seed))
    begin = extract(sample(key_first, problem_with(), prompts_of(first)).x)
    searcher, prompts = best_of_n(candidates=candidates), prompts_of(num)

    def by_oracle(group: int) -> Iterator[SearchResult]:
        oracle = FrechetOracle(extractor, running(seen, statistics_of(begin)))
        problem = problem_with(oracle.verifier)
        return search_in_groups(key, searcher, problem, prompts, group=group, after=oracle)

    def by(verifier: Verifier) -> Iterator[SearchResult]:
        problem = problem_with(verifier)
        return search_in_groups(
            key, searcher, problem, prompts, group=num, after=lambda problem, _: problem
        )

    table = Table(
        title=f"{first} plain digits and {num} more, best of {candidates}, judge's features"
    )
    table.add_column("chosen by")
    for column in ("Frechet, seen half", "unseen half", "precision", "recall", "seconds"):
        table.add_column(column, justify="right")

    def row(name: str, chosen: Array, seconds: float | None) -> None:
        # The population is that which the oracle sees: the first images are part of it.
        features = jnp.concatenate([begin, chosen])
        own = statistics_of(features)
        share = precision_recall(halves[1], features)
        figures = [frechet_distance(own, seen), frechet_distance(own, unseen), *share]
        shown = "" if seconds is None else f"{seconds:.1f}"
        table.add_row(name, *(f"{figure:.3f}" for figure in figures), shown)

    row("nothing (plain samples)", extract(sample(key, problem_with(), prompts).x), None)
    for name, results in (
        ("classifier", by(model.classifier())),
        ("oracle, one by one", by_oracle(1)),
        ("oracle, 20 at once", by_oracle(20)),
    ):
        start = time.perf_counter()
        latents = jnp.concatenate([one.particle.x for one in results])
        row(name, extract(latents), time.perf_counter() - start)
    row("real digits of the unseen half", jnp.asarray(halves[1][:num]), None)
    Console(width=120).print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
