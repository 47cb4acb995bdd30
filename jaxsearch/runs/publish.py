"""The end of a run: its winners are made again from their recipes, judged and written down."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsearch.core.evaluate import combined
from jaxsearch.core.pixels import to_pixels
from jaxsearch.core.replay import plain_noise
from jaxsearch.core.types import Cost, Legs, Noise, SearchResult
from jaxsearch.runs.build import Built, Made, make_again
from jaxsearch.runs.config import Config
from jaxsearch.runs.files import write_json
from jaxsearch.runs.folder import RunFolder
from jaxsearch.runs.graders import is_grader
from jaxsearch.runs.grading import Grading
from jaxsearch.runs.images import contact_sheet, image_name, write_png
from jaxsearch.runs.plots import curves_dict, curves_of, plot_curves
from jaxsearch.runs.recipes import read_recipes, write_recipes
from jaxsearch.runs.records import Scores, cost_dict, finite, record, summary_of_scores, write_lines


class Outcome(NamedTuple):
    """What is published."""

    plain: np.ndarray  # [P, h, w, c] uint8
    found: np.ndarray  # [P, h, w, c] uint8
    scores: dict[str, Scores]  # by verifier, guides first
    plain_total: np.ndarray  # [P] the guides' aggregate
    found_total: np.ndarray  # [P]
    replay_difference: np.ndarray  # [P] between these scores and those that the search saw, of
    # verifiers; graders may say something else of what differs in the last bit


def compare(built: Built, plain: Made, found: Made, seen: np.ndarray) -> Outcome:
    """Plain beside found; `seen` [P, V] are the scores that the search saw of the found ones."""
    scores = {
        name: Scores(role, plain.scores[:, i], found.scores[:, i])
        for i, (name, role) in enumerate(zip(built.verifiers, built.roles, strict=True))
    }
    guides = [made.scores[:, : built.num_guides] for made in (plain, found)]
    told = list(built.verifiers)[: built.num_guides]
    again = [column for column, name in enumerate(told) if not is_grader(name)]
    plain_total, found_total = _totals(built, guides)
    return Outcome(
        plain=to_pixels(plain.images),
        found=to_pixels(found.images),
        scores=scores,
        plain_total=plain_total,
        found_total=found_total,
        replay_difference=_differences(guides[1][:, again], seen[:, again]),
    )


def _differences(again: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[P] the largest difference between two scores of a sample [P, V]; infinite if one failed."""
    both, neither = np.isfinite(again) & np.isfinite(seen), ~np.isfinite(again) & ~np.isfinite(seen)
    difference = np.subtract(again, seen, out=np.full(seen.shape, np.inf), where=both)
    return np.where(neither, 0.0, np.abs(difference)).max(axis=1, initial=0.0)


def _totals(built: Built, pair: list[np.ndarray]) -> list[np.ndarray]:
    """[P] each of what plain and found samples score, compared with each other; [P, V] given."""
    total = combined(built.problem, jnp.stack([jnp.asarray(scores) for scores in pair], axis=1))
    return list(np.asarray(total).T)


def plain_cost(built: Built) -> Cost:
    """The cost of one plain sample and of judging it as the search would."""
    problem = built.problem
    passes = problem.denoiser.passes * sum(problem.solver.calls)
    return Cost(passes, problem.solver.num_steps, 1, built.num_guides)


def plain_recipes(built: Built, like: Noise, legs: Legs | None) -> tuple[Noise, Legs | None]:
    """The recipes of plain samples, in the shape of others so that one program makes both."""
    noise = plain_noise(built.key, built.problem, built.prompts)
    spread = jnp.broadcast_to(noise.keys, like.keys.shape)
    free = None if like.free is None else jnp.zeros_like(like.free)
    noise = Noise(spread, jnp.zeros_like(like.coefs).at[..., :1].set(noise.coefs), free)
    if legs is None:
        return noise, None
    nowhere = jnp.zeros_like(legs.end)
    return noise, Legs(Noise(legs.noise.keys, jnp.zeros_like(legs.noise.coefs)), nowhere, nowhere)


def write_results(
    config: Config,
    built: Built,
    folder: RunFolder,
    result: SearchResult,
    seconds: float,
    grading: Grading | None = None,
) -> dict[str, Any]:
    """Writes everything but the summary, and returns what the summary says.

    Args:
        config: of the run.
        built: what it names.
        folder: where to.
        result: of the search.
        seconds: that the search took.
        grading: its graders, if it has any. They are asked about what is published.
    """
    ids = np.asarray(built.prompts.ids).tolist()
    best = result.particle
    write_recipes(folder.recipes, best.noise, ids, config.prompts, legs=best.legs)
    recipes = read_recipes(folder.recipes)
    found = make_again(built, *recipes, config.microbatch)
    plain = make_again(built, *plain_recipes(built, *recipes), config.microbatch)
    graded: list[dict[str, Any]] = [{}] * len(ids)
    if grading is not None:
        found, plain = grading.complete(found), grading.complete(plain)
        graded = [{"graders": account} for account in grading.account_of(ids)]
    outcome = compare(built, plain, found, np.asarray(result.scores))
    _write_pictures(config, folder, outcome)
    curves = curves_of(result.trace, int(plain_cost(built).network_passes), outcome.plain_total)
    shown = f"median and middle half of {len(ids)} prompts"
    title = f"{config.searcher.name} on {config.model.name}: {shown}"
    score = " + ".join(part.name for part in config.guide)
    plot_curves(folder.curve, curves, title=title, score=score)
    write_json(folder.curve.with_suffix(".json"), curves_dict(curves))
    spent = zip(*(np.asarray(field).tolist() for field in result.cost), strict=True)
    costs = [Cost(*numbers) for numbers in spent]
    write_lines(
        folder.records,
        [
            record(
                i,
                ids[i],
                config.prompts[i],
                outcome.scores,
                cost=cost_dict(costs[i]),
                plain_cost=cost_dict(plain_cost(built)),
                replay_difference=finite(outcome.replay_difference[i]),
                seconds=round(seconds / len(ids), 4),
                **({"metadata": config.metadata[i]} if config.metadata else {}),
                **graded[i],
            )
            for i in range(len(ids))
        ],
    )
    summary = _summary(config, built, outcome, costs)
    return summary if grading is None else {**summary, "graders": grading.account()}


def _write_pictures(config: Config, folder: RunFolder, outcome: Outcome) -> None:
    for index in range(len(config.prompts)):
        write_png(folder.images / image_name("plain", index), outcome.plain[index])
        write_png(folder.images / image_name("found", index), outcome.found[index])
    guides = " + ".join(part.name for part in config.guide)
    sheet = contact_sheet(
        f"{config.model.name}: {config.searcher.name} guided by {guides}",
        config.prompts,
        outcome.plain,
        outcome.found,
        outcome.plain_total,
        outcome.found_total,
    )
    write_png(folder.sheet, sheet)


def _summary(config: Config, built: Built, outcome: Outcome, costs: list[Cost]) -> dict[str, Any]:
    per_prompt = Cost(*(np.mean(field) for field in zip(*costs, strict=True)))
    total = Cost(*(np.sum(field) for field in zip(*costs, strict=True)))
    return {
        "model": config.model.name,
        "searcher": config.searcher.name,
        "prompts": len(config.prompts),
        "seed": config.seed,
        "scores": summary_of_scores(outcome.scores),
        "cost_per_prompt": cost_dict(per_prompt),
        "plain_cost_per_prompt": cost_dict(plain_cost(built)),
        "cost_total": cost_dict(total),
        "replay_difference": finite(float(np.max(outcome.replay_difference))),
    }
