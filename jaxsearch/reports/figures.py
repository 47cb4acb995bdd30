"""Figures of a report: SVG whose colours are those of the page, light or dark."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from jaxsearch.reports.decisions import Tree
from jaxsearch.runs.plots import Colours, Curve, draw_curves
from jaxsearch.runs.records import Mean

# Drawn in colours that nothing else has, each of which becomes a variable of the page's style.
_VARIABLES = {
    "#0a0b01": "var(--ink)",
    "#0a0b02": "var(--faint)",
    "#0a0b03": "var(--found)",
    "#0a0b04": "var(--round)",
    "#0a0b05": "var(--plain)",
}
_INK, _FAINT, _FOUND, _ROUND, _PLAIN = _VARIABLES
_SERIES = tuple(f"#0a0c0{number}" for number in range(8))
_VARIABLES |= {colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES)}
_SHADES = 5
_MOST_DOTS = 3000  # of a figure; more are drawn as a band, or left out


class Dot(NamedTuple):
    """A point of a sweep in a figure."""

    name: str  # that it has in the table
    series: str  # of points that differ in their size or budget alone
    network_passes: float  # per prompt
    score: Mean


class Progress(NamedTuple):
    """How the best sample so far of a point has got better."""

    name: str  # that it has in the table
    network_passes: np.ndarray  # [R] per prompt, mean
    scores: list[Mean]  # [R] over prompts and seeds


@contextlib.contextmanager
def _figure(name: str, label: str, size: tuple[float, float]) -> Iterator[tuple[Any, list[Markup]]]:
    """Axes to draw in; the finished SVG is then in the list.

    Args:
        name: of the figure, another one for each of a page: ids in it are made of it.
        label: what it shows, for who does not see it.
        size: in inches.
    """
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,  # names may hold dollars
        "font.size": 10,
        "legend.fontsize": 9,
        **{f"{part}.color": _INK for part in ("xtick", "ytick", "text", "grid")},
        **{f"axes.{part}": _INK for part in ("edgecolor", "labelcolor", "titlecolor")},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        drawn: list[Markup] = []
        yield axes, drawn
        buffer = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    drawn.append(_inline(buffer.getvalue().decode(), label))


def _inline(text: str, label: str) -> Markup:
    """A document of matplotlib's as an element of a page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[0-9.]+pt"', "", text, count=2)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every figure
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))


def curves_figure(curves: dict[str, Curve], score: str) -> Markup:
    """Score against cost over the prompts of a run, with the middle half of them."""
    label = f"{score} against network passes per prompt"
    with _figure("curves", label, (7.2, 3.8)) as (axes, drawn):
        draw_curves(axes, curves, Colours(_FOUND, _ROUND, _PLAIN))
        axes.set_ylabel(score)
    return drawn[0]


def rounds_figure(name: str, tree: Tree, plain: float, score: str) -> Markup:
    """The scores of all candidates of a prompt, round by round, and of those that won."""
    label = f"{score} of every candidate by round; those that led to the found sample are marked"
    with _figure(name, label, (7.2, 3.2)) as (axes, drawn):
        rounds, scores = tree.round + 1, tree.score
        sound = np.isfinite(scores)
        if sound.sum() <= _MOST_DOTS:
            axes.plot(rounds[sound], scores[sound], linestyle="", marker="o", markersize=3.5,
                      color=_ROUND, alpha=0.7, markeredgewidth=0, label="candidate")  # fmt: skip
        else:
            places = np.unique(rounds[sound])
            of_round = [scores[sound & (rounds == place)] for place in places]
            axes.fill_between(places, [min(s) for s in of_round], [max(s) for s in of_round],
                              color=_ROUND, alpha=0.3, linewidth=0,
                              label="candidates, from the worst to the best")  # fmt: skip
        won = tree.won & sound
        axes.plot(rounds[won], scores[won], linestyle="-", linewidth=1, marker="o", markersize=5,
                  color=_FOUND, label="led to the found sample")  # fmt: skip
        if np.isfinite(plain):
            axes.axhline(plain, color=_PLAIN, linestyle="--", linewidth=1, label="plain sample")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("round")
        axes.set_ylabel(score)
        axes.legend(frameon=False, loc="best")
    return drawn[0]


def steps_figure(name: str, tree: Tree, score: str) -> Markup:
    """Partial samples by the solver steps they have taken and their scores, joined to parents."""
    label = f"{score} of partial samples by solver step, with the way of the found sample"
    shown = _shown(tree)
    with _figure(name, label, (7.2, 3.6)) as (axes, drawn):
        _joined(axes, tree, shown, tree.score)
        axes.plot(tree.end[shown], tree.score[shown], linestyle="", marker="o", markersize=3.5,
                  color=_ROUND, alpha=0.7, markeredgewidth=0, label="candidate")  # fmt: skip
        _won(axes, tree, shown, tree.score)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("solver steps taken")
        axes.set_ylabel(score)
        axes.legend(frameon=False, loc="best")
    return drawn[0]


def branches(tree: Tree) -> bool:
    """Whether two different partial samples of the same depth have been gone on from."""
    parents = np.unique(tree.parent[tree.parent >= 0])
    return len(np.unique(tree.end[parents])) < len(parents)


def tree_figure(name: str, tree: Tree, score: str) -> Markup:
    """The tree of partial samples: solver steps to the right, siblings above each other."""
    label = f"the tree of partial samples, with the way of the found sample and {score} as shade"
    shown = _shown(tree)
    heights = _heights(tree, shown)
    leaves = int(np.nanmax(heights, initial=0)) + 1
    with _figure(name, label, (7.2, float(np.clip(0.08 * leaves, 3.0, 9.0)))) as (axes, drawn):
        _joined(axes, tree, shown, heights)
        sound = np.sort(tree.score[shown])
        share = np.searchsorted(sound, tree.score, side="left") / max(len(sound), 1)
        for part in range(_SHADES):
            here = shown & (np.floor(share * _SHADES) == part)
            text = "candidate, the better the less faint" if part == _SHADES - 1 else None
            axes.plot(tree.end[here], heights[here], linestyle="", marker="o", markersize=4.5,
                      color=_ROUND, alpha=(part + 1) / _SHADES, markeredgewidth=0,
                      label=text)  # fmt: skip
        _won(axes, tree, shown, heights)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("solver steps taken")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.legend(frameon=False, loc="best")
    return drawn[0]


def _shown(tree: Tree) -> np.ndarray:
    """[C] which candidates are drawn: where they are too many, those that something came of."""
    shown = np.isfinite(tree.score)
    if shown.sum() > _MOST_DOTS:
        parents = np.zeros_like(shown)
        parents[tree.parent[tree.parent >= 0]] = True
        shown &= parents | tree.won
    return shown


def _heights(tree: Tree, shown: np.ndarray) -> np.ndarray:
    """[C] where candidates stand: each family together, and a parent in the middle of its own."""
    children: dict[int, list[int]] = {}
    for index in np.flatnonzero(shown).tolist():
        children.setdefault(int(tree.parent[index]), []).append(index)
    heights = np.full(len(shown), np.nan)
    roots = [
        one for parent in children if parent < 0 or not shown[parent] for one in children[parent]
    ]
    stack, leaves = list(reversed(roots)), 0
    while stack:  # the children of a node are all placed when it is met again
        node = stack[-1]
        own = children.get(node, [])
        if own and np.isnan(heights[own[0]]):
            stack += reversed(own)
            continue
        stack.pop()
        if own:
            heights[node] = heights[own].mean()
        else:
            heights[node], leaves = leaves, leaves + 1
    return heights


def _joined(axes: Any, tree: Tree, shown: np.ndarray, heights: np.ndarray) -> None:
    """Lines from candidates to their parents, those of the found sample above the others."""
    joined = shown & (tree.parent >= 0) & shown[tree.parent]
    for which, colour, alpha, width in (
        (joined & ~tree.won, _ROUND, 0.4, 0.6),
        (joined & tree.won, _FOUND, 1.0, 1.6),
    ):
        # One line through all edges, with gaps, is small in a file.
        xs, ys = [], []
        for child in np.flatnonzero(which).tolist():
            parent = tree.parent[child]
            xs += [tree.end[parent], tree.end[child], np.nan]
            ys += [heights[parent], heights[child], np.nan]
        if xs:
            axes.plot(xs, ys, color=colour, alpha=alpha, linewidth=width)


def _won(axes: Any, tree: Tree, shown: np.ndarray, heights: np.ndarray) -> None:
    won = tree.won & shown
    axes.plot(tree.end[won], heights[won], linestyle="", marker="o", markersize=5,
              color=_FOUND, label="led to the found sample")  # fmt: skip


def points_figure(name: str, dots: Sequence[Dot], score: str) -> Markup:
    """Score against cost over the points of a sweep, with 95 % intervals."""
    label = f"{score} against network passes per prompt, for each point of the sweep"
    series: dict[str, list[Dot]] = {}
    for dot in dots:
        series.setdefault(dot.series, []).append(dot)
    with _figure(name, label, (7.2, 4.2)) as (axes, drawn):
        for number, group in enumerate(series.values()):
            group.sort(key=lambda dot: dot.network_passes)
            colour = _SERIES[number % len(_SERIES)]
            passes = [dot.network_passes for dot in group]
            means = [dot.score.mean for dot in group]
            half = [np.nan_to_num((dot.score.high - dot.score.low) / 2) for dot in group]
            axes.errorbar(passes, means, yerr=half, color=colour, marker="o", markersize=4,
                          linewidth=1, capsize=3, elinewidth=1.2)  # fmt: skip
            for dot in group:
                axes.annotate(dot.name, (dot.network_passes, dot.score.mean), xytext=(5, 4),
                              textcoords="offset points", fontsize=9, color=colour)  # fmt: skip
        if len({dot.network_passes for dot in dots}) > 1 and _wide(dots):
            axes.set_xscale("log")
        axes.set_xlabel("network passes per prompt")
        axes.set_ylabel(score)
    return drawn[0]


def progress_figure(name: str, lines: Sequence[Progress], score: str) -> Markup:
    """The best finished sample so far against cost, for each point of a sweep."""
    label = f"{score} of the best sample so far against network passes, for each point"
    with _figure(name, label, (7.2, 4.2)) as (axes, drawn):
        for number, line in enumerate(lines):
            colour = _SERIES[number % len(_SERIES)]
            low, mean, high = (
                np.asarray([getattr(one, part) for one in line.scores])
                for part in ("low", "mean", "high")
            )
            marker = "o" if len(mean) < 10 else None
            axes.plot(line.network_passes, mean, color=colour, marker=marker, markersize=4)
            if len(mean) == 1:
                error = np.nan_to_num([mean - low, high - mean])
                axes.errorbar(line.network_passes, mean, yerr=error, color=colour, capsize=3)
            axes.fill_between(line.network_passes, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.annotate(line.name, (line.network_passes[-1], mean[-1]), xytext=(5, 0),
                          textcoords="offset points", fontsize=9, color=colour)  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_xlabel("network passes per prompt")
        axes.set_ylabel(score)
    return drawn[0]


def _wide(dots: Sequence[Dot]) -> bool:
    """Whether costs are of several orders of magnitude."""
    passes = [dot.network_passes for dot in dots]
    return min(passes) > 0 and max(passes) / min(passes) > 20
