"""What a person reads on the terminal: the summary of a run, a plan, lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxsearch.core.plan import Plan
from jaxsearch.runs.components import FACTS, Line
from jaxsearch.runs.errors import bytes_text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(entry: Mapping[str, float | None]) -> str:
    if entry["low"] is None or entry["high"] is None:
        return _number(entry["mean"])
    half = (entry["high"] - entry["low"]) / 2
    return f"{_number(entry['mean'])} ± {_number(half)}"


def print_summary(console: Console, summary: Mapping[str, Any], path: Path) -> None:
    """The scores, the cost and where everything is."""
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for column in ("verifier", "role"):
        table.add_column(column)
    for column in ("plain", "found", "gain (95 % interval)"):
        table.add_column(column, justify="right")
    for name, entry in summary["scores"].items():
        gain = entry["gain"]
        style = ""
        if gain["low"] is not None and gain["low"] > 0:
            style = "green"
        elif gain["high"] is not None and gain["high"] < 0:
            style = "red"
        table.add_row(
            name,
            entry["role"],
            _number(entry["plain"]["mean"]),
            _number(entry["found"]["mean"]),
            Text(_interval(gain), style),
        )
    console.print(table)
    cost, plain = summary["cost_per_prompt"], summary["plain_cost_per_prompt"]
    seconds = summary["seconds"]
    total = summary["cost_total"]
    lines = {
        "prompts": f"{summary['prompts']}",
        "network passes": f"{cost['network_passes']:,} per prompt, {plain['network_passes']:,} for "
        f"a plain sample; {total['network_passes']:,} in all",
    }
    if cost.get("backward_passes"):
        lines["backward passes"] = (
            f"{cost['backward_passes']:,} per prompt; {total['backward_passes']:,} in all"
        )
    for name, account in summary.get("graders", {}).items():
        lines[f"{name}"] = (
            f"{account['questions']:,} questions, of which {account['kept']:,} had been asked "
            f"before and {account['failed']:,} failed"
            + (f"; cost {account['cost']:.4g}" if account["cost"] else "")
        )
    lines |= {
        "solver steps": f"{cost['solver_steps_papers_nfe']:,} per prompt (the papers' NFE)",
        "seconds": f"{seconds['total']:.1f}, of which {seconds['compile']:.1f} compiling",
        "pictures": f"{path / 'samples.png'}, {path / 'curve.png'}, {path / 'images'}",
        "replay": f"jaxsearch replay {path}",
    }
    _print_lines(console, lines)


def _print_lines(console: Console, lines: Mapping[str, str]) -> None:
    width = max(map(len, lines))
    console.print()
    for name, text in lines.items():
        console.print(f"{name:<{width}}  {text}", highlight=False, markup=False, soft_wrap=True)


_FIGURES = {
    "number": "images",
    "frechet_distance": "Frechet distance",
    "spatial_frechet_distance": "spatial Frechet distance",
    "inception_score": "Inception score",
    "kernel_distance": "kernel distance x 1000",
    "precision": "precision",
    "recall": "recall",
    "prompt_diversity": "distance within prompts",
}


def print_metrics(console: Console, found: Mapping[str, Any], output: Path) -> None:
    """The figures side by side, and where they are."""
    columns = found["populations"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{found['features']} features")
    for name in columns:
        table.add_column(name, justify="right")
    for key, label in _FIGURES.items():
        if any(key in figures for figures in columns.values()):
            table.add_row(label, *(_figure(key, figures) for figures in columns.values()))
    console.print(table)
    of = found["reference"]
    number = "" if of["number"] is None else f", {of['number']:,} images"
    console.print(f"\nreference  {of['name']}{number}", highlight=False, soft_wrap=True)
    console.print(f"seconds    {found['seconds']:.1f}", highlight=False)
    console.print(f"figures    {output}", highlight=False, soft_wrap=True)


def _figure(key: str, figures: Mapping[str, Any]) -> str:
    value = figures.get(key)
    if value is None:
        return "-"
    if key == "number":
        return f"{value:,}"
    scale = 1000 if key == "kernel_distance" else 1
    text = f"{scale * value:.4g}" if abs(scale * value) < 1000 else f"{scale * value:,.0f}"
    std = figures.get(f"{key}_std")
    return text if not std else f"{text} ± {scale * std:.2g}"


def print_plan(
    console: Console, plan: Plan, num_prompts: int, more: Mapping[str, str] | None = None
) -> None:
    """What a search will cost, and more lines by their names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("cost")
    table.add_column("per prompt", justify="right")
    table.add_column(f"{num_prompts} prompts", justify="right")
    names = {
        "network_passes": "network passes",
        "backward_passes": "backward passes",
        "solver_steps": "solver steps (the papers' NFE)",
        "decodes": "decodes",
        "verifier_calls": "verifier calls",
    }
    for field, name in names.items():
        value = int(getattr(plan.cost, field))
        if field == "backward_passes" and not value:
            continue
        table.add_row(name, f"{value:,}", f"{value * num_prompts:,}")
    table.add_row("floating-point operations", _si(plan.flops / num_prompts), _si(plan.flops))
    console.print(table)
    stages = "; ".join(
        f"{stage.rounds} x {stage.candidates} candidates x {stage.steps} steps"
        for stage in plan.stages
    )
    _print_lines(
        console,
        {
            "rounds": f"{plan.rounds}: {stages}",
            "particles": f"{plan.particles:,} in the largest round",
            "operations": f"{_si(plan.flops_per_call.network_pass)} a network pass, "
            f"{_si(plan.flops_per_call.decode)} a decode, "
            f"{_si(plan.flops_per_call.verifier_call)} a verifier call",
            "memory": ", ".join(
                f"{name} {bytes_text(size)}" for name, size in plan.memory._asdict().items()
            ),
            **(more or {}),
        },
    )


def _si(value: float) -> str:
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def print_catalogue(console: Console, catalogue: Mapping[str, Mapping[str, Line]]) -> None:
    """What there is, one line each: a table on a terminal, tab-separated lines elsewhere.

    The facts of a verifier are further columns, and on a terminal a line below its own.
    """
    for kind, lines in catalogue.items():
        if not console.is_terminal:
            for name, line in lines.items():
                console.file.write(
                    "\t".join((kind.removesuffix("s"), name, line.text, *line.facts)) + "\n"
                )
            continue
        table = Table(box=None, pad_edge=False, show_header=False, title=kind, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, line in lines.items():
            facts = [
                f"{key} {value}" for key, value in zip(FACTS, line.facts, strict=False) if value
            ]
            table.add_row(name, Text(line.text))
            if facts:
                table.add_row("", Text("; ".join(facts), style="dim"))
        console.print(table)
        console.print()
