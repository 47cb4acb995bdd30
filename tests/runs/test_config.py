"""Configs: what is asked for, over the model's defaults, over the factories' own."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path

import pytest

from jaxsearch.runs.arguments import parse, resolve_file
from jaxsearch.runs.build import build, with_budget
from jaxsearch.runs.components import catalogue, factory_of, registry, settings_of
from jaxsearch.runs.config import Config, overlay
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.settings import GENERAL
from jaxsearch.searchers import FREE_SIZE, SEARCHERS


def config_of(*argv: str) -> Config:
    return parse(argv, command="search", description="").config


def test_defaults_are_the_first_papers() -> None:
    config = config_of()
    assert config.searcher.to_dict() == {
        "name": "epsilon_greedy",
        "candidates": 4,
        "iterations": 20,
        "radius": 0.15,
        "epsilon": 0.4,
        "elitist": False,
        "search_inactive": False,
        "every": 1,
        "window": None,
    }
    assert (config.solver.name, config.schedule.name) == ("heun", "karras")
    assert config.schedule.settings["num_steps"] == 18
    assert [part.name for part in config.guide] == ["classifier"]
    assert {part.name for part in config.report} == {"judge", "brightness", "compressibility"}
    assert config.prompts[:12] == tuple("012345678901")
    assert len(config.prompts) == 36


def test_the_value_has_seen_the_noise_that_it_judges() -> None:
    assert config_of().value.name == "solver_estimate"
    assert config_of("--model", "scenes").value.name == "lookahead"
    assert config_of("--solver", "first_order").value.name == "lookahead"
    assert config_of("--model", "scenes", "--value", "rollout").value.name == "rollout"
    # Which it never scores by, where it plays samples.
    assert config_of("--model", "scenes", "--searcher", "mcts").value.name == "solver_estimate"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = config_of(
        "--searcher", "zero_order", "--searcher.step", "1e-05", "--searcher.geometry", "distance",
        "--guide", "brightness", "compressibility", "--verifiers.compressibility.quality", "70",
        "--prompts", "3,1", "4", "--seed", "4294967295", "--microbatch", "2",
        "--value", "lookahead",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert resolve_file(tmp_path / "config.yaml").config == config
    assert config.prompts == ("3", "1", "4")


def test_command_line_over_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "searcher: {name: zero_order, neighbours: 7, iterations: 3}\nseed: 5\nprompts: [1, 2]\n"
        "schedule: {num_steps: 9}\nnum_prompts: 5\n"
    )
    config = config_of("--config", str(path), "--searcher.iterations", "4")
    assert config.searcher.settings["neighbours"] == 7
    assert config.searcher.settings["iterations"] == 4
    assert (config.schedule.name, config.schedule.settings["num_steps"]) == ("karras", 9)
    assert (config.seed, config.prompts) == (5, ("1", "2", "1", "2", "1"))
    other = config_of("--config", str(path), "--searcher", "best_of_n", "--prompts", "8")
    assert other.searcher.settings["candidates"] == 4
    assert other.prompts == ("8",)


def test_a_name_alone_is_enough_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("searcher: best_of_n\nguide: brightness\nprompts: 3\n")
    config = config_of("--config", str(path))
    assert (config.searcher.name, config.guide[0].name) == ("best_of_n", "brightness")
    assert "classifier" in {part.name for part in config.report}


def test_settings_of_a_model_for_a_verifier_go_with_it(tmp_path: Path) -> None:
    """Kills: defaults that are lost beside others' settings, or that demand their verifier."""
    path = tmp_path / "c.yaml"
    path.write_text("verifiers: {compressibility: {quality: 90}}\n")
    (part,) = (p for p in config_of("--config", str(path)).report if p.name == "compressibility")
    assert part.settings == {"max_bytes": 1000, "quality": 90, "path": "device"}
    assert not config_of("--guide", "judge", "--report").report


def test_overlay_drops_settings_of_a_part_that_is_replaced() -> None:
    below = {"searcher": {"name": "a", "x": 1}, "seed": 1}
    assert overlay(below, {"searcher": {"x": 2}})["searcher"] == {"name": "a", "x": 2}
    assert overlay(below, {"searcher": {"name": "b"}})["searcher"] == {"name": "b"}
    assert overlay(below, {})["seed"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("searchr: x", "unknown entry 'searchr': did you mean searcher"),
        ("solver: {chrn: 3}", "heun has no setting 'chrn': did you mean churn"),
        ("seed: many", "seed is 'many': pass a whole number"),
        ("searcher: {candidates: 1.5}", "searcher.candidates is '1.5': pass a whole number"),
        ("searcher: [", "damaged at line"),
        ("searcher: 3", "write 'searcher: {...}'"),
        ("searcher: {name: 3}", "must be a text"),
        ("just words", "is no config file"),
        ("verifiers: {compressibility: 3}", "settings of compressibility are 3"),
        ("verifiers: {jpeg: {}}", "unknown verifier 'jpeg'"),
        ("seed: null", "seed is null: pass a whole number"),
        ("searcher: {candidates: null}", "searcher.candidates is null"),
        ("searcher: {3: 1}", "epsilon_greedy has no setting '3'"),
        ("3: 1", "unknown entry '3'"),
        ("guide: null", "guide holds None: write"),
        ("prompts: {a: 1}", r"prompts holds {'a': 1}"),
        ("verifiers: {compressibility: null}", "settings of compressibility are None"),
        ("microbatch: 0", "microbatch is 0"),
        ("num_prompts: 9999999", "num_prompts is 9999999"),
        ("guide: []", "no guide"),
        ("guide: [clasifier]", "unknown verifier 'clasifier': did you mean classifier"),
        ("prompts: []", "no prompts"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        config_of("--config", str(path))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", ["searcher", "solver", "schedule", "verifier", "model", "value", "aggregate"]
)
def test_every_factory_can_be_set_from_the_command(kind: str) -> None:
    for name in registry(kind, "digits"):
        factory = factory_of(kind, name, "digits")
        settings = settings_of(factory)
        assert "name" not in settings, f"{name}: a part's own name is called so in a config"
        for setting, (annotation, default, text) in settings.items():
            assert annotation is not inspect.Parameter.empty, f"{name}.{setting} has no type"
            assert default is not inspect.Parameter.empty, f"{name}.{setting} has no default"
            assert text, f"{name}.{setting} is not in the docstring's Args"


def test_catalogue_has_a_line_on_everything() -> None:
    kinds = ("searchers", "verifiers", "models", "solvers", "schedules", "values", "aggregates")
    for kind, lines in catalogue(kinds).items():
        assert lines, kind
        assert all(line.text.strip() for line in lines.values()), kind


def test_a_budget_chooses_the_size_unless_it_is_given(tmp_path: Path) -> None:
    """Kills: a size that was asked for and is overruled; one that a resumed run chooses anew."""
    small = ["--schedule.num_steps", "6", "--searcher", "best_of_n", "--budget", "60"]
    request = parse(small, command="search", description="")
    assert request.free == "candidates"
    config = with_budget(request.config, "candidates")
    assert config.searcher.settings["candidates"] == 60 // 11
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = resolve_file(tmp_path / "config.yaml")
    assert (again.config, again.free) == (config, None)
    given = parse([*small, "--searcher.candidates", "2"], command="search", description="")
    assert given.free is None
    with pytest.raises(UserError, match="a budget of 10 network passes is too small for best_of_n"):
        with_budget(dataclasses.replace(request.config, budget=10), "candidates")
    with pytest.raises(UserError, match=r"budget is 20, too small .* needs 22 network passes"):
        build(dataclasses.replace(given.config, budget=20))


def test_a_threshold_makes_prompts_rest() -> None:
    config = config_of("--threshold", "0.5", "--searcher", "best_of_n")
    assert build(config).searcher.adaptive
    with pytest.raises(UserError, match="threshold is nan"):
        build(dataclasses.replace(config, threshold=math.nan))


def test_the_help_of_a_budget_names_every_free_size():
    """Kills: a searcher whose size the help does not tell, or tells wrongly."""
    *listed, others = GENERAL["budget"].help.split("(")[1].split(")")[0].split("; ")
    said = {
        name: size
        for names, size in (entry.split(": ") for entry in listed)
        for name in names.split(", ")
    }
    assert others == "others: iterations"
    assert {name: said.get(name, "iterations") for name in SEARCHERS} == FREE_SIZE
