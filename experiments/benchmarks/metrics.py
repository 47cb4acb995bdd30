"""Metrics of 50 000 generated digits beside the same figures computed independently, and costs.

Command: `python -m experiments.benchmarks.metrics` (about 5 minutes on 2 CPU cores). `--num 2000`
is a look at it. The independent figures are NumPy's and SciPy's in float64, written from the
papers' equations; pytorch-fid, torch-fidelity and ADM's evaluator were not to be had.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from scipy.linalg import sqrtm
from scipy.spatial.distance import pdist

from experiments.digits_quality import sample_digits
from jaxsearch.metrics import (
    Statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
    prompt_diversity,
    statistics_of,
)
from jaxsearch.metrics.greedy import gain, running, take_in, terms
from jaxsearch.metrics.population import Population, population
from jaxsearch.zoo import digits as model
from jaxsearch.zoo.digits.data import splits
from jaxsearch.zoo.digits.load import weights
from jaxsearch.zoo.features import digits
from jaxsearch.zoo.references import REFERENCES

_CHUNK = 5000
_NEIGHBOURS = 3
_ROWS = 200  # of a block of distances in float64


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    begin = time.perf_counter()
    made = make()
    jax.block_until_ready(made)
    return made, time.perf_counter() - begin


def peak() -> float:
    """The largest memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --------------------------------------------------------------------- the same figures in float64


def frechet_by_root(first: np.ndarray, second: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6, by the root of the product of covariances."""
    one, other = (x.astype(np.float64) for x in (first, second))
    c1, c2 = np.cov(one.T), np.cov(other.T)
    mean = np.sum((one.mean(0) - other.mean(0)) ** 2)
    return float(mean + np.trace(c1 + c2) - 2 * np.trace(sqrtm(c1 @ c2)).real)


def score_by_divergence(logits: np.ndarray, splits: int) -> float:
    """Salimans et al. 2016, section 4, image by image."""
    values = []
    for part in np.array_split(logits.astype(np.float64), splits):
        p = np.exp(part - part.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        divergence = np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / p.mean(0)), 0).sum(axis=1)
        values.append(np.exp(divergence.mean()))
    return float(np.mean(values))


def discrepancy_of_all(first: np.ndarray, second: np.ndarray) -> float:
    """Binkowski et al. 2018, equation 4, of whole populations and not of subsets."""

    def total(x: np.ndarray, y: np.ndarray) -> float:
        blocks = (x[i : i + _ROWS] @ y.T / x.shape[1] + 1 for i in range(0, len(x), _ROWS))
        return float(sum(np.sum(block * block * block) for block in blocks))

    def within(x: np.ndarray) -> float:
        own = np.sum((np.sum(x**2, axis=1) / x.shape[1] + 1) ** 3)
        return (total(x, x) - own) / (len(x) * (len(x) - 1))

    one, other = (x.astype(np.float64) for x in (first, second))
    return within(one) + within(other) - 2 * total(one, other) / (len(one) * len(other))


def shares_of_all(real: np.ndarray, made: np.ndarray) -> tuple[float, float]:
    """Kynkaanniemi et al. 2019, equations 1 and 2."""

    def rows(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
        squares = np.sum(y**2, axis=1)
        for i in range(0, len(x), _ROWS):
            part = x[i : i + _ROWS]
            yield np.sum(part**2, axis=1)[:, None] + squares - 2 * part @ y.T

    def radii(x: np.ndarray) -> np.ndarray:
        # The nearest is the image itself. A copy: a column would keep its whole block in memory.
        parts = [np.partition(d, _NEIGHBOURS, axis=1)[:, _NEIGHBOURS].copy() for d in rows(x, x)]
        return np.concatenate(parts)

    def inside(x: np.ndarray, centres: np.ndarray) -> float:
        reach = radii(centres)
        return float(np.mean(np.concatenate([(d <= reach).any(axis=1) for d in rows(x, centres)])))

    one, other = (x.astype(np.float64) for x in (real, made))
    return inside(other, one), inside(one, other)


# ------------------------------------------------------------------------------------------ digits


def generated(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many digits uint8 [n,8,8,1] of the conditional model, and their labels."""
    labels = np.arange(num) % 10
    parts = []
    for begin in range(0, num, _CHUNK):
        # Chunks have noises of their own.
        latents = sample_digits(
            weights("denoiser"), labels[begin : begin + _CHUNK], seed=seed + begin
        )
        images = np.asarray(model.decoder(enlarge=1)(latents))
        parts.append(np.floor(images * 255 + 0.5).astype(np.uint8))
    return np.concatenate(parts), labels


def of_digits(num: int, seed: int, table: Table) -> None:
    """Every figure of generated digits against the 360 held-out ones, in the judge's features."""
    (images, labels), seconds = timed(lambda: generated(num, seed))
    table.add_row(f"sampling, {num:,} digits", "", "", "", f"{seconds:.1f}", "", f"{peak():.2f}")
    extractor = digits()

    def looked(images: np.ndarray) -> Population:
        return population(extractor, [images], batch=500)

    made, seconds = timed(lambda: looked(images))
    real = looked(REFERENCES["digits"]().images)
    table.add_row("features, mean, covariance", "", "", "", f"{seconds:.1f}", "", f"{peak():.2f}")
    assert made.features is not None
    assert real.features is not None
    assert made.logits is not None
    assert made.statistics is not None
    assert real.statistics is not None
    held = len(splits().held_out.labels)
    parts = max(num // 5000, 1)
    x, y, logits, one, other = made.features, real.features, made.logits, *_both(made, real)
    key = jax.random.key(seed)
    lines: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        (
            "Frechet distance",
            lambda: [frechet_distance(one, other)],
            lambda: [frechet_by_root(x, y)],
        ),
        (
            f"Inception score, {parts} parts",
            lambda: [inception_score(logits, splits=parts).mean],
            lambda: [score_by_divergence(logits, parts)],
        ),
        (
            f"kernel distance, 100 subsets of {held}",
            lambda: kernel_distance(key, y, x, subset_size=held),
            lambda: [discrepancy_of_all(x, y)],
        ),
        ("precision, recall", lambda: precision_recall(y, x), lambda: shares_of_all(y, x)),
        (
            "distance within ten labels",
            lambda: [prompt_diversity(x, labels)],
            lambda: [np.mean([pdist(x[labels == k].astype(np.float64)).mean() for k in range(10)])],
        ),
    ]
    # The memory of what comes here first is its own.
    found = [(*timed(here), peak()) for _, here, _ in lines]
    for (name, _, there), (figures, seconds, memory) in zip(lines, found, strict=True):
        wanted, other_seconds = timed(there)
        difference = max(abs(a - b) for a, b in zip(figures, wanted, strict=False))
        shown = ", ".join(f"{value:.6g}" for value in figures[: len(wanted)])
        if len(figures) > len(wanted):
            shown += f" ± {figures[1] / 10:.1g}"  # of the mean of 100 subsets
        table.add_row(
            name, shown, ", ".join(f"{value:.6g}" for value in wanted), f"{difference:.1e}",
            f"{seconds:.1f}", f"{other_seconds:.1f}", f"{memory:.2f}",
        )  # fmt: skip


def _both(made: Population, real: Population) -> tuple[Statistics, Statistics]:
    assert made.statistics is not None
    assert real.statistics is not None
    return made.statistics, real.statistics


# ------------------------------------------------------------------------- at Inception's own size


def at_full_size(size: int, num: int, seed: int, table: Table) -> None:
    """Statistics, distance and greedy choices at so many features, drawn and not extracted."""
    rng = np.random.default_rng(seed)
    # Eigenvalues that fall as those of Inception's features do, over six orders.
    scale = (np.arange(1, size + 1) ** -1.2).astype(np.float32)
    mix = np.linalg.qr(rng.normal(size=(size, size)))[0].astype(np.float32)

    def drawn(num: int, shift: float) -> np.ndarray:
        noise = rng.normal(size=(num, size)).astype(np.float32)
        return shift + (noise * scale) @ mix

    real, made = drawn(num, 0.0), drawn(num, 0.01)
    one, seconds = timed(lambda: statistics_of(real))
    exact, other_seconds = timed(lambda: np.cov(real.astype(np.float64).T))
    error = np.abs(one.covariance - exact).max() / np.abs(exact).max()
    table.add_row(
        f"covariance of {num:,}", "", "", f"{error:.1e} rel.", f"{seconds:.1f}",
        f"{other_seconds:.1f}", f"{peak():.2f}",
    )  # fmt: skip
    other = statistics_of(made)
    found, seconds = timed(lambda: frechet_distance(one, other))
    memory = peak()
    wanted, other_seconds = timed(lambda: frechet_by_root(real, made))
    table.add_row(
        "Frechet distance", f"{found:.6g}", f"{wanted:.6g}", f"{abs(found - wanted):.1e}",
        f"{seconds:.1f}", f"{other_seconds:.1f}", f"{memory:.2f}",
    )  # fmt: skip

    def of(rows: list[int]) -> Statistics:
        # The covariance in float64: the distances differ by a thousandth of their size.
        there = made[rows].astype(np.float64)
        return Statistics(there.mean(0), np.cov(there.T), len(there))

    first = of(list(range(1024)))
    begun, axes = timed(lambda: running(one, first))
    begun = take_in(begun, made[1024:1040])  # half of what may be there before axes are renewed
    _, taking = timed(lambda: take_in(begun, made[1040:1041]))
    known, handing = timed(lambda: terms(begun))
    candidates = jnp.asarray(made[2000:2064])
    program = jax.jit(gain)
    gains, _ = timed(lambda: np.asarray(program(known, candidates)))
    each = min(timed(lambda: program(known, candidates))[1] for _ in range(3)) / len(candidates)

    there = list(range(1040))
    before = frechet_distance(of(there), one)
    after, eigenproblem = timed(lambda: frechet_distance(of([*there, 2000]), one))
    found, wanted = float(gains[0]), 1041 * (before - after)
    table.add_row(
        f"greedy: gain of a candidate (64: ± {gains.std():.2g})", f"{found:.6g}", f"{wanted:.6g}",
        f"{abs(found - wanted):.1e}", f"{each:.5f}", f"{eigenproblem:.1f}", f"{peak():.2f}",
    )  # fmt: skip
    for name, seconds in (
        ("greedy: an image taken in", taking),
        ("greedy: handed to a program", handing),
        ("greedy: axes, for 32 images", axes),
    ):
        table.add_row(name, "", "", "", f"{seconds:.2f}", "", f"{peak():.2f}")


def main(num: int = 50_000, size: int = 2048, drawn: int = 10_000, seed: int = 0) -> None:
    """Prints two tables.

    Args:
        num: digits, in multiples of 5000 or fewer; 0 leaves the first table out.
        size: features of the second table.
        drawn: its images, 2064 or more: the greedy choices are of those behind the first 2000.
        seed: of everything.
    """
    if drawn < 2064:
        raise SystemExit(f"drawn is {drawn}: take 2064 or more")
    console = Console(width=140)
    of_the_judge = "generated digits against the 360 held-out ones, 64 features of the judge"
    parts: dict[str, Callable[[Table], None]] = {
        of_the_judge: lambda table: of_digits(num, seed, table),
        f"{size} features": lambda table: at_full_size(size, drawn, seed, table),
    }
    if not num:
        del parts[of_the_judge]
    for title, fill in parts.items():
        table = Table(title=title)
        table.add_column("what")
        for column in ("here", "float64", "difference", "s", "float64 s", "peak GiB"):
            table.add_column(column, justify="right")
        fill(table)
        console.print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
