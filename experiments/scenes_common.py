"""What the experiments on captioned scenes share: captions, guides, methods, a measured search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import color_sequences
from rich.console import Console

from experiments import common
from jaxsearch.core.aggregate import mean_rank, total, weighted, worst
from jaxsearch.core.budget import largest
from jaxsearch.core.plan import flops
from jaxsearch.core.process import shifted
from jaxsearch.core.search import search
from jaxsearch.core.types import (
    Aggregate,
    Array,
    Objective,
    Problem,
    Prompts,
    Searcher,
    Value,
    Verifier,
)
from jaxsearch.core.value import lookahead, solver_estimate
from jaxsearch.searchers import FREE_SIZE, SEARCHERS
from jaxsearch.solvers import first_order
from jaxsearch.zoo import scenes
from jaxsearch.zoo.scenes.captions import read
from jaxsearch.zoo.scenes.data import HELD_OUT
from jaxsearch.zoo.scenes.load import Size

PLAIN_PASSES = 40
"""Network passes of a plain sample: 20 steps, guidance."""

SAMPLER = "20 steps, guidance 2"
"""What plain samples are made with, unless a table says otherwise."""

LEARNT = (scenes.alignment(), scenes.attributes(), scenes.taste())
"""The verifiers that a search can fool."""


class Guide(NamedTuple):
    """What a search is guided by."""

    verifiers: tuple[Verifier, ...]
    aggregate: Aggregate = total()


GUIDES = {
    "alignment": Guide(LEARNT[:1]),
    "attributes": Guide(LEARNT[1:2]),
    "taste": Guide(LEARNT[2:]),
    "ranks of the three": Guide(LEARNT, mean_rank()),
    # About one over the deviations of the three among plain samples.
    "weighted": Guide(LEARNT, weighted(weights=(15.0, 7.0, 6.0))),
    "worst of the three": Guide(LEARNT, worst()),
    "exact, graded": Guide((scenes.exact(form="graded"),)),
}


class Method(NamedTuple):
    """A searcher, and those of its settings that are not its defaults."""

    searcher: str
    settings: dict[str, Any] = {}  # noqa: RUF012
    value: Value = solver_estimate()
    eta: float = 1.0

    def problem(self, guide: str, **how: Any) -> Problem:
        """Scenes under this method's sampler; see `problem`."""
        return problem(guide, self.value, eta=self.eta, **how)

    def make(self, size: int) -> Searcher:
        """The searcher of a size."""
        return SEARCHERS[self.searcher](**{FREE_SIZE[self.searcher]: size}, **self.settings)

    def within(self, problem: Problem, budget: int) -> tuple[int, Searcher]:
        """The largest that never spends more network passes on a prompt, and its size.

        Raises:
            ValueError: if the budget is too small.
        """
        size = largest(self.make, problem, network_passes=budget)
        return size, self.make(size)


METHODS = {
    "random": Method("best_of_n"),
    "random, ODE": Method("best_of_n", eta=0.0),
    "zero-order": Method("zero_order"),
    "zero-order, ODE": Method("zero_order", eta=0.0),
    "search over paths": Method("paths", value=lookahead()),
    "epsilon-greedy": Method("epsilon_greedy", value=lookahead()),
    "beam": Method("beam", value=lookahead()),
    "SVDD": Method("svdd", value=lookahead()),
    "SMC": Method("smc", value=lookahead()),
    "successive halving": Method("halving", value=lookahead()),
    "MCTS": Method("mcts", {"every": 5}),
    "rollover": Method("rollover", value=lookahead()),
    "evolution, ODE": Method("evolution", {"population": 4, "tournament_size": 2}, eta=0.0),
    "Markov chains, ODE": Method("markov_chain", eta=0.0),
    "cross-entropy, ODE": Method("cross_entropy", {"population": 4, "elites": 2}, eta=0.0),
    "gradient, ODE": Method("gradient", eta=0.0),
}
"""ODE: the sampler without noise, where the initial one decides everything; searchers of that alone
are there for it. The others have noise injected at each step, as the command does."""


class Captions(NamedTuple):
    """Captions drawn apart from what networks learnt from, their tasks in turn.

    Of one shape or a count there are too few to be new: about half of 64 captions were learnt,
    pairs and relations hardly ever.
    """

    texts: tuple[str, ...]
    tasks: np.ndarray  # [P] of `scenes.TASKS`
    prompts: Prompts  # [P] as the large model reads them


def captions(num: int) -> Captions:
    """The first so many."""
    texts = tuple(scenes.prompt_set(num, seed=HELD_OUT))
    return Captions(texts, np.array([read(text).task for text in texts]), scenes.prompts(texts))


def problem(
    guide: str,
    value: Value = solver_estimate(),
    *,
    size: Size = "large",
    guidance: float = 2.0,
    num_steps: int = 20,
    eta: float = 1.0,
) -> Problem:
    """Scenes under the first-order sampler, by default as the command has them."""
    denoiser = scenes.denoiser(size=size, guidance=guidance)
    verifiers, aggregate = GUIDES[guide]
    return Problem(
        denoiser=denoiser,
        objective=Objective(decoder=scenes.decoder(), verifiers=verifiers, aggregate=aggregate),
        solver=first_order(shifted(denoiser.process, num_steps=num_steps), eta=eta),
        value=value,
    )


WATCHED = {
    "exact": scenes.exact(),
    "graded": scenes.exact(form="graded"),
    **{verifier.name: verifier for verifier in LEARNT},
}
"""What looks at every result, whatever guided the search."""


class Found(NamedTuple):
    """What a search found for every caption under every seed, and what it cost."""

    scores: dict[str, list[float]]  # by what watched: every caption of every seed
    passes: int  # network passes of a caption, backward ones too, mean over all
    flops: float  # of a caption, mean over all
    seconds: float  # of a caption, compiled, all searched at once, of the fastest seed
    compile_seconds: float


def measure(
    searcher: Searcher, problem: Problem, prompts: Prompts, seeds: int
) -> tuple[Found, list[Array]]:
    """Searches all captions under every seed, with one program; the images [seeds][P] too.

    Raises:
        ValueError: if the parts do not go together.
    """
    begin = time.perf_counter()
    program = search.lower(jax.random.key(0), searcher, problem, prompts).compile()
    compile_seconds = time.perf_counter() - begin
    scores: dict[str, list[float]] = {name: [] for name in WATCHED}
    results, seconds = [], []
    for seed in range(seeds):
        begin = time.perf_counter()
        results.append(jax.block_until_ready(program(jax.random.key(seed), problem, prompts)))
        seconds.append(time.perf_counter() - begin)
    images = [problem.objective.decoder(result.particle.x) for result in results]
    for one in images:
        for name, verifier in WATCHED.items():
            scores[name] += np.asarray(verifier(one, prompts.context)).tolist()
    prices = flops(problem, prompts)
    mean = jax.tree.map(lambda *fields: np.mean(fields), *(result.cost for result in results))
    passes = round(float(mean.network_passes + mean.backward_passes))
    each = min(seconds) / prompts.ids.size  # the first call also reads the program in
    return Found(scores, passes, prices.of(mean), each, compile_seconds), images


class Sheet:
    """The table of an experiment: a line for each search, measured once and kept.

    Args:
        output: a folder that has no results yet; a killed run in it goes on.
        num_prompts: captions, the tasks in turn.
        seeds: searches of each caption.
        timed: whether seconds are kept too, which mean little on a machine that does more.
        population: what else is said of all pictures together.
    """

    def __init__(
        self,
        output: Path,
        num_prompts: int,
        seeds: int,
        *,
        timed: bool = False,
        population: Callable[[np.ndarray], dict[str, float]] = lambda images: {},
    ) -> None:
        self.captions = captions(num_prompts)
        self.output, self.seeds, self.timed = output, seeds, timed
        self._population = population
        self._rows = common.Rows(output, self.captions.prompts, seeds)
        self._lines: list[list[object]] = []
        self._head: list[str] = []
        self._console = Console(width=160)

    def row(
        self, searcher: Searcher, problem: Problem, prompts: Prompts | None = None, **name: Any
    ) -> dict[str, Any]:
        """A search of the captions: its name, and what `Found` has.

        Raises:
            ValueError: if the parts do not go together.
        """
        prompts = self.captions.prompts if prompts is None else prompts

        def measured() -> dict[str, Any]:
            found, images = measure(searcher, problem, prompts, self.seeds)
            all_of_them = found._asdict() | {"population": self._population(np.concatenate(images))}
            untimed = {key: value for key, value in all_of_them.items() if "seconds" not in key}
            return all_of_them if self.timed else untimed

        row = self._rows.get(measured, **name)
        exact = np.asarray(row["scores"]["exact"]).reshape(self.seeds, -1)
        rates = {task: exact[:, self.captions.tasks == task].mean() for task in scenes.TASKS}
        columns = {
            **name,
            "passes": row["passes"],
            **{task: f"{rate:.2f}" for task, rate in rates.items()},
            **{one: common.shown(row["scores"][one]) for one in WATCHED},
            **{key: f"{value:.3f}" for key, value in row["population"].items()},
            **({"ms": f"{1000 * row['seconds']:.0f}"} if self.timed else {}),
        }
        self._head = list(columns)
        self._lines.append(list(columns.values()))
        self._console.print(*self._lines[-1], sep="  ", markup=False)
        jax.clear_caches()
        return row

    def within(
        self,
        how: Method,
        problem: Problem,
        budget: int,
        /,
        *,
        wrap: Callable[[Searcher], Searcher] = lambda searcher: searcher,
        **name: Any,
    ) -> dict[str, Any] | None:
        """The row of a method's largest search that never spends more on a caption.

        Where it is too dear, or cannot have its guides (ranks, where rounds are compared), says so,
        and there is none.

        Args:
            how: the method whose size is chosen.
            problem: what is searched.
            budget: network passes.
            wrap: what is made of the searcher.
            name: of the row, which has the size besides.
        """
        try:
            size, searcher = how.within(problem, budget)
        except ValueError as error:
            self._console.print(*name.values(), budget, error, sep="  ", markup=False)
            return None
        return self.row(wrap(searcher), problem, **name, size=size)

    def write(self, conditions: str) -> None:
        """The table, below the conditions of its searches."""
        timed = " and ms (compiled, all searched at once)" if self.timed else ""
        title = (
            f"{common.conditions(len(self.captions.texts), self.seeds)}; {conditions}. By task: the"
            f" share that is exactly right; exact: that of all. Passes{timed} are of one caption."
        )
        table = common.table(self._head, self._lines)
        (self.output / "table.md").write_text(f"{title}\n\n{table}")


def draw(
    path: Path,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    watched: Sequence[str],
    across: Mapping[str, str],
) -> None:
    """Scores with their 95 % intervals against what they cost: a panel for each of both.

    Args:
        path: of the picture.
        curves: rows by the name of their curve, cheapest first.
        watched: names of `WATCHED`.
        across: fields of rows that are prices, and what is written below them.
    """
    # A price for each column; of a single one, the scores side by side.
    shape = (len(watched), len(across)) if len(across) > 1 else (1, len(watched))
    size = (5.2 * shape[1], 3.6 * shape[0] + 0.8)
    figure, axes = plt.subplots(
        *shape, figsize=size, squeeze=False, sharex="col", sharey="row" if shape[0] > 1 else False
    )
    panels = [(name, price) for name in watched for price in across]
    styles = [(colour, line) for line in ("-", ":") for colour in color_sequences["tab10"]]
    for axis, (name, price) in zip(axes.flat, panels, strict=True):
        for (colour, line), (curve, rows) in zip(styles, curves.items(), strict=False):
            at = [one[price] for one in rows]
            middle, half = np.transpose([common.interval(one["scores"][name]) for one in rows])
            axis.plot(at, middle, marker=".", color=colour, linestyle=line, label=curve)
            axis.fill_between(at, middle - half, middle + half, color=colour, alpha=0.1, lw=0)
        axis.set(xscale="log", ylabel=name, xlabel=across[price])
        if shape[0] > 1:
            axis.label_outer()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    lines = -(-len(labels) // 4)
    figure.legend(handles, labels, loc="upper center", ncols=4)
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.25 * lines + 0.1) / size[1]))
    figure.savefig(path, dpi=100)
    plt.close(figure)
