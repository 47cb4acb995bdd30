"""The score-against-cost curve."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsearch.core.types import Trace
from jaxsearch.runs.files import write_atomic
from jaxsearch.runs.records import finite


class Colours(NamedTuple):
    """What curves are drawn in."""

    found: str = "#1f5fa8"
    estimate: str = "#c77700"
    plain: str = "#6b6b6b"


class Curve(NamedTuple):
    """A score by cost: its median over prompts and the quarter of them below and above."""

    network_passes: np.ndarray  # [R] per prompt, backward ones too, median over prompts
    low: np.ndarray  # [R] first quartile
    median: np.ndarray  # [R]
    high: np.ndarray  # [R] third quartile


def _curve(passes: np.ndarray, scores: np.ndarray) -> Curve:
    """The rounds after which at least one prompt has a score; those without count as the worst."""
    seen = np.isfinite(scores).any(axis=1)
    passes, scores = np.median(passes[seen], axis=1), scores[seen]
    rows = np.percentile(scores, (25, 50, 75), axis=1, method="lower")
    return Curve(passes, *rows)


def curves_of(trace: Trace, plain_passes: int, plain_scores: np.ndarray) -> dict[str, Curve]:
    """The curves of a search: "best" so far, "round" (best of each round) and "plain" samples.

    Before a search has finished a first sample, a round's scores are those of clean estimates.
    """
    passes = np.asarray(trace.cost.network_passes) + np.asarray(trace.cost.backward_passes)
    plain = np.where(np.isfinite(plain_scores), plain_scores, -np.inf)[None]
    return {
        "best": _curve(passes, np.asarray(trace.best)),
        "round": _curve(passes, np.asarray(trace.current)),
        "plain": _curve(np.full(plain.shape, plain_passes), plain),
    }


def curves_dict(curves: dict[str, Curve]) -> dict[str, Any]:
    """The curves as JSON holds them."""
    return {
        name: {key: [finite(v) for v in values] for key, values in curve._asdict().items()}
        for name, curve in curves.items()
    }


def curves_from(numbers: Mapping[str, Any]) -> dict[str, Curve]:
    """The curves that `curves_dict` gave.

    Raises:
        KeyError: if one of them is missing, as `TypeError` and `ValueError` where it is none.
    """

    def read(values: Sequence[float | None]) -> np.ndarray:
        return np.asarray([-np.inf if value is None else value for value in values], np.float64)

    return {
        name: Curve(*(read(numbers[name][key]) for key in Curve._fields))
        for name in ("best", "round", "plain")
    }


def plot_curves(path: Path, curves: dict[str, Curve], *, title: str, score: str) -> None:
    """Draws score against network passes, median and interquartile range over prompts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), layout="constrained", dpi=140)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_curves(axes, curves, Colours())
    axes.set_ylabel(score)
    axes.set_title(title, loc="left", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def draw_curves(axes: Any, curves: dict[str, Curve], colours: Colours) -> None:
    """Draws score against network passes into the axes of a figure."""
    best, current, plain = curves["best"], curves["round"], curves["plain"]
    if len(plain.median) and np.isfinite(plain.median[0]):
        if np.isfinite([plain.low[0], plain.high[0]]).all():
            axes.axhspan(plain.low[0], plain.high[0], color=colours.plain, alpha=0.12, linewidth=0)
        axes.axhline(plain.median[0], color=colours.plain, linestyle="--", linewidth=1)
        axes.plot(
            *_line(plain), color=colours.plain, marker="o", linestyle="--", label="plain sample"
        )
    if len(current.median) > 1:
        unfinished = len(best.median) < len(current.median)
        label = "best of each round" + (", a clean estimate until the last" if unfinished else "")
        axes.plot(*_line(current), color=colours.estimate, linewidth=1, label=label)
        _band(axes, current, colours.estimate, 0.12)
    if len(best.median):
        marker = "o" if len(best.median) < 10 else None
        style: dict[str, Any] = {"color": colours.found, "linewidth": 2, "marker": marker}
        axes.plot(*_line(best), **style, label="best finished sample so far")
        _band(axes, best, colours.found, 0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel("network passes per prompt")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:  # nothing is drawn where no score was finite
        axes.legend(frameon=False, loc="best", fontsize=9)


def _line(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    return curve.network_passes, _known(curve.median)


def _known(values: np.ndarray) -> np.ndarray:
    """The values, NaN where one is not finite: nothing is drawn there."""
    return np.where(np.isfinite(values), values, np.nan)


def _band(axes: Any, curve: Curve, colour: str, alpha: float) -> None:
    if len(curve.median) == 1:
        low, middle, high = map(_known, (curve.low, curve.median, curve.high))
        error = np.nan_to_num([middle - low, high - middle])
        axes.errorbar(*_line(curve), yerr=error, color=colour, capsize=4, linewidth=0, elinewidth=2)
        return
    low, high = _known(curve.low), _known(curve.high)
    axes.fill_between(curve.network_passes, low, high, color=colour, alpha=alpha, linewidth=0)
