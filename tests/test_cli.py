"""The command as a user meets it: runs, replays, lists, and every refusal."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from rich.console import Console

from jaxsearch import cli
from jaxsearch.runs import build as building
from jaxsearch.runs import progress
from jaxsearch.runs.components import catalogue
from jaxsearch.runs.images import read_png, write_png
from jaxsearch.runs.report import print_catalogue

COMMAND = Path(sys.executable).parent / "jaxsearch"
SMALL = [
    "--schedule.num_steps", "6", "--searcher.iterations", "3", "--searcher.candidates", "2",
    "--prompts", "3", "5", "--seed", "1",
]  # fmt: skip
FILES = {
    "config.yaml", "versions.json", "records.jsonl", "recipes.jsonl", "samples.png", "curve.png",
    "curve.json", "summary.json", "images",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs compiled by one test serve the next, and none of it reaches other files' tests."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("cache")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_use_compilation_cache", lambda folder: None)
        for values in (settings, before):
            compilation_cache.reset_cache()
            for name, value in values.items():
                jax.config.update(name, value)
            if values is settings:
                yield
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["search", *SMALL, "--output", str(path)]) == 0
    return path


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The same run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --------------------------------------------------------------------------------------- a good run


def test_devices_change_no_result(run: Path, tmp_path: Path) -> None:
    """Kills: a key folded with a device; a setting that is not honoured."""
    many = tmp_path / "many"
    assert cli.main(["search", *SMALL, "--devices", "4", "--output", str(many)]) == 0
    for path in sorted((run / "images").iterdir()):
        assert (many / "images" / path.name).read_bytes() == path.read_bytes()
    for one, other in zip(*(records(folder) for folder in (run, many)), strict=True):
        timed = ("seconds", "replay_difference")
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }
    assert (many / "config.yaml").read_text() == (run / "config.yaml").read_text()


def test_a_run_leaves_everything(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == FILES
    assert {path.name for path in (run / "images").iterdir()} == {
        f"{kind}_000{i}.png" for kind in ("plain", "found") for i in (0, 1)
    }
    for path in run.rglob("*.png"):
        with Image.open(path) as picture:
            picture.verify()
    versions = json.loads((run / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert {"jaxsearch", "flax", "numpy", "python", "device"} <= set(versions)
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 1


def test_records_hold_scores_and_costs_by_kind(run: Path) -> None:
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert [(record["id"], record["prompt"]) for record in records] == [(3, "3"), (5, "5")]
    for record in records:
        roles = {name: entry["role"] for name, entry in record["scores"].items()}
        assert roles == {
            "classifier": "guide",
            "judge": "report",
            "brightness": "report",
            "compressibility": "report",
        }
        assert record["replay_difference"] <= 1e-3
        assert record["seconds"] > 0
        # Of T = 6 Heun steps four inject noise: 3 iterations of 2 candidates, 2 passes each. The
        # first and the last two steps are passed by one particle, the very last with one pass.
        assert record["cost"]["solver_steps_papers_nfe"] == 4 * 6 + 2
        assert record["cost"]["network_passes"] == 4 * 12 + 3
        assert record["cost"]["decodes"] == record["cost"]["verifier_calls"] == 4 * 6 + 2
        assert record["plain_cost"]["network_passes"] == 11


def test_summary_agrees_with_the_records(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert summary["complete"] is True
    for name, entry in summary["scores"].items():
        for kind in ("plain", "found"):
            mean = np.mean([record["scores"][name][kind] for record in records])
            assert entry[kind]["mean"] == pytest.approx(mean)
        gain = np.mean(
            [
                record["scores"][name]["found"] - record["scores"][name]["plain"]
                for record in records
            ]
        )
        assert entry["gain"]["mean"] == pytest.approx(gain)
    total = sum(record["cost"]["network_passes"] for record in records)
    assert summary["cost_total"]["network_passes"] == total
    assert set(summary["seconds"]) == {"search", "compile", "total"}


def test_recorded_scores_are_those_of_the_published_pictures(run: Path) -> None:
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for index, record in enumerate(records):
        for kind in ("plain", "found"):
            pixels = read_png(run / "images" / f"{kind}_{index:04d}.png")
            # Pixels are rounded to 1/255, their mean by less.
            score = record["scores"]["brightness"][kind]
            assert pixels.mean() / 255 == pytest.approx(score, abs=1 / 255)


def test_replay_makes_the_same_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert cli.main(["replay", str(run)]) == 0
    assert capsys.readouterr().out == "2 of 2 images identical\n"
    assert contents(run) == before


def test_samples_that_were_renoised_replay_and_the_plain_ones_are_plain(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: legs that a recipe does not hold, or that a plain sample goes as well."""
    path = tmp_path / "renoised"
    arguments = [
        "--searcher", "paths", "--searcher.unit", "steps", "--searcher.level", "3",
        "--searcher.forward", "2", "--searcher.backward", "3.6", "--schedule.num_steps", "6",
        "--prompts", "3", "5", "--seed", "1", "--output", str(path), "--quiet",
    ]  # fmt: skip
    assert cli.main(["search", *arguments]) == 0
    assert cli.main(["replay", str(path)]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 images identical\n")
    for line in (path / "recipes.jsonl").read_text().splitlines()[1:]:
        assert [(leg["end"], leg["back"]) for leg in json.loads(line)["legs"]] == [(3, 1), (5, 3)]
    for index in range(2):
        levels = [
            read_png(one / "images" / f"plain_{index:04d}.png").astype(int) for one in (run, path)
        ]
        assert np.max(np.abs(levels[0] - levels[1])) <= 1  # two programs, rounded otherwise


def test_replay_overwrites_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: pictures written before they are compared, or into a folder that holds some."""
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    pictures = copied / "images"
    (pictures / "found_0001.png").write_bytes((pictures / "found_0000.png").read_bytes())
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    refused = {pictures: "is not empty", copied / "records.jsonl": "cannot use"}
    for output, message in refused.items():
        assert cli.main(["replay", str(copied), "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before


def test_replay_names_what_differs(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "images" / "found_0001.png"
    pixels = read_png(path)
    pixels[0, :3] = np.where(pixels[0, :3] > 100, pixels[0, :3] - 7, pixels[0, :3] + 7)
    write_png(path, pixels)
    (copied / "images" / "found_0000.png").unlink()
    assert cli.main(["replay", str(copied), "--output", str(tmp_path / "again")]) == 1
    out = capsys.readouterr().out
    assert "0 of 2 images identical" in out
    assert "found_0000.png: it is missing" in out
    assert "found_0001.png differs in 3 of 1024 pixels, by up to 7 of 255 levels" in out
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        "found_0000.png",
        "found_0001.png",
    }


def test_the_config_of_a_run_runs_again_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    config = str(run / "config.yaml")
    assert cli.main(["search", "--config", config, "--output", str(again), "--quiet"]) == 0
    timed = ("summary.json", "records.jsonl")
    one, two = contents(run), contents(again)
    assert set(one) == set(two)
    assert {name for name in one if one[name] != two[name]} <= set(timed)


def test_ctrl_c_and_resume_end_in_the_same_bytes(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, shown = tmp_path / "stopped", []
    before = signal.getsignal(signal.SIGINT)

    def stop(self: progress.Reporter, state, seconds: float) -> None:
        shown.append(int(state.round))
        if len(shown) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.Pace, "__call__", lambda self: 2)
    monkeypatch.setattr(progress.Pace, "short", False)
    with monkeypatch.context() as patch:
        patch.setattr(progress.Reporter, "__call__", stop)
        assert cli.main(["search", *SMALL, "--output", str(path)]) == 130
    assert len(shown) < 10  # a listener may be a few rounds late
    assert signal.getsignal(signal.SIGINT) is before
    error = capsys.readouterr().err
    assert f"jaxsearch: interrupted: go on with `jaxsearch search --resume {path}`" in error
    assert "Traceback" not in error
    assert {entry.name for entry in path.iterdir()} == {
        "config.yaml",
        "versions.json",
        "checkpoint",
    }
    assert cli.main(["search", *SMALL, "--output", str(path)]) == 2
    assert "holds an unfinished run: go on with" in capsys.readouterr().err
    assert cli.main(["search", "--resume", str(path), "--quiet"]) == 0
    assert f"going on after round {shown[-1]}" in capsys.readouterr().err
    one, two = contents(run), contents(path)
    assert set(one) == set(two)
    assert {n for n in one if one[n] != two[n]} <= {"summary.json", "records.jsonl"}
    assert cli.main(["search", "--resume", str(path)]) == 0
    assert "is complete" in capsys.readouterr().err


def test_as_many_particles_at_once_as_fit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: a choice that is not said, or that a replay does not know of."""
    monkeypatch.setattr(building, "_device_bytes", lambda: 2**30)
    monkeypatch.setattr(building, "fitting", lambda needed, particles, there, devices: 2)
    path = tmp_path / "small"
    assert cli.main(["plan", *SMALL]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.match(
        r"2 particles run at once \(--microbatch\): all 4 would need about .* MiB, .* 1 GiB", said
    )
    assert cli.main(["search", *SMALL, "--output", str(path)]) == 0
    assert said in capsys.readouterr().err
    assert yaml.safe_load((path / "config.yaml").read_text())["microbatch"] == 2
    assert cli.main(["replay", str(path)]) == 0
    # A choice of one's own is kept.
    assert cli.main(["plan", *SMALL, "--microbatch", "4"]) == 0
    assert "--microbatch" not in capsys.readouterr().out


def test_plan_says_what_the_run_cost(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *SMALL]) == 0
    lines = {line[:30].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    record = json.loads((run / "records.jsonl").read_text().splitlines()[0])
    assert lines["network passes"][-2] == str(record["cost"]["network_passes"])
    assert lines["solver steps (the papers' NFE)"][-2:] == ["26", "52"]


def test_list_has_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(kind for kind, *_ in lines if kind != "schedule")) == [
        "searcher",
        "verifier",
        "model",
        "solver",
        "value",
        "aggregate",
    ]
    assert {"best_of_n", "zero_order", "epsilon_greedy"} <= {
        n for k, n, *_ in lines if k == "searcher"
    }
    assert all(text for _, _, text, *_ in lines)
    assert cli.main(["list", "solvers"]) == 0
    assert {line.split("\t")[1] for line in capsys.readouterr().out.splitlines()} >= {"heun"}


def test_list_says_what_verifiers_are_chosen_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "verifiers"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    found = {name: facts for _, name, _, *facts in lines}
    assert found["brightness"] == ["0 to 1", "yes", "pixels", "", ""]
    assert found["compressibility"][1] == "no"
    clip = ["-1 to 2.5", "path=float", "pixels, prompt", "openai/clip-vit-large-patch14", "MIT"]
    assert [one.split(" and ")[0] for one in found["clip_score"]] == clip
    assert {"judge", "inception", "self_supervised", "zero_shot"} <= set(found)
    assert "AGPL-3.0" in found["aesthetic"][-1]
    out = io.StringIO()
    print_catalogue(Console(file=out, force_terminal=True, width=200), catalogue(["verifiers"]))
    assert (
        "score 0 to 1; gradient path=float; needs pixels, label; weights 64x64_cl" in out.getvalue()
    )


def test_help_shows_the_chosen_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", "--searcher", "zero_order", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--searcher.neighbours" in out
    assert "--searcher.epsilon" not in out
    assert "--solver.churn" in out
    for command in ("", "replay", "list", "plan"):
        assert cli.main([*command.split(), "--help"]) == 0
        assert "jaxsearch" in capsys.readouterr().out


def test_the_installed_command(tmp_path: Path) -> None:
    """Once for real: another process, another folder, its own cache of compiled programs."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # a user's own goes before
    small = ["--searcher", "best_of_n", "--schedule.num_steps", "3", "--guide", "brightness"]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = call("search", *small, "--prompts", "0,1,2")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-best_of_n-")
    assert f"jaxsearch replay runs/{folder.name}" in done.stdout
    assert "brightness" in done.stdout
    assert any((tmp_path / "cache" / "jaxsearch" / "compiled").iterdir())
    again = call("replay", f"runs/{folder.name}")
    assert (again.returncode, again.stdout) == (0, "3 of 3 images identical\n"), again.stderr
    refused = call("search", "--prompts", "11")
    assert refused.returncode == 2
    assert (
        refused.stderr
        == "jaxsearch: prompts: '11' is no prompt of this model: take a number from 0 to 9\n"
    )


def test_importing_is_light() -> None:
    """No framework but JAX, and nothing that only a run needs; every public name is there."""
    code = (
        "import sys, jaxsearch\n"
        "assert all(hasattr(jaxsearch, name) for name in jaxsearch.__all__)\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'orbax', 'matplotlib', 'PIL', 'flax'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------------------- bad input

REFUSALS = {
    "searcher": (
        ["--searcher", "best_of_m"],
        "unknown searcher 'best_of_m': did you mean best_of_n",
    ),
    "solver": (["--solver", "hoin"], "unknown solver 'hoin': did you mean heun"),
    "solver far": (["--solver", "xyz"], "there is first_order, flow_sde, heun"),
    "schedule": (["--schedule", "karas"], "did you mean karras"),
    "guide": (["--guide", "brighness"], "did you mean brightness"),
    "report": (["--report", "juge"], "did you mean judge"),
    "model": (["--model", "digit"], "did you mean digits"),
    "value": (["--value", "look"], "unknown value 'look': did you mean lookahead"),
    "setting": (["--searcher.candidate", "3"], "did you mean candidates"),
    "option": (["--promts", "3"], "did you mean --prompts"),
    "stray": (["3"], "unrecognized arguments: 3"),
    "missing value": (["--searcher"], "expected one argument"),
    "type": (
        ["--searcher.candidates", "four"],
        "searcher.candidates is 'four': pass a whole number",
    ),
    "candidates": (["--searcher.candidates", "0"], "candidates is 0"),
    "epsilon": (["--searcher.epsilon", "1.5"], "epsilon is 1.5"),
    "iterations": (["--searcher.iterations", "[1,2]"], "iterations has 2 numbers"),
    "churn": (["--solver.churn", "-1"], "churn"),
    "no noise": (["--solver.churn", "0"], "injects none"),
    "no noise eta": (["--solver", "first_order", "--solver.eta", "0"], "injects none"),
    "steps": (["--schedule.num_steps", "0"], "num_steps is 0"),
    "quality": (["--verifiers.compressibility.quality", "101"], "101"),
    "not chosen": (
        ["--guide", "judge", "--report", "--verifiers.compressibility.quality", "5"],
        "compressibility is no guide and no report",
    ),
    "guidance": (["--model.guidance", "2"], "set conditional to true"),
    "enlarge": (["--model.enlarge", "0"], "enlarge is 0"),
    "label": (["--prompts", "11"], "'11' is no prompt"),
    "negative label": (["--prompts", "-1"], "'-1' is no prompt"),
    "empty prompt": (["--prompts", ""], "no prompts"),
    "num prompts": (["--num-prompts", "0"], "num_prompts is 0"),
    "seed": (["--seed", "-1"], "seed is -1"),
    "microbatch": (["--microbatch", "0"], "microbatch is 0"),
    "budget": (["--budget", "0"], "budget is 0"),
    "budget too small": (
        ["--searcher", "best_of_n", "--searcher.candidates", "4", "--budget", "139"],
        "budget is 139, too small for best_of_n: it needs 140 network passes",
    ),
    "budget without a size": (
        ["--searcher", "best_of_n", "--budget", "34"],
        "a budget of 34 network passes is too small for best_of_n: with these settings it needs 35",
    ),
    "threshold of ranks": (
        [
            *("--searcher", "best_of_n", "--guide", "classifier", "brightness"),
            *("--aggregate", "mean_rank", "--threshold", "0.5"),
        ],
        "a threshold needs scores that mean the same in every round",
    ),
    "negative leaves": (
        ["--searcher", "mcts", "--searcher.leaves", "-2", "--budget", "5000"],
        "leaves is -2",
    ),
    "half a window": (["--searcher", "beam", "--searcher.window", "[1.0]"], "window"),
    "no gradient": (
        ["--searcher", "gradient", "--guide", "compressibility"],
        "verifier 'compressibility' has no gradient",
    ),
    "budget with backward passes": (
        [
            "--searcher",
            "gradient",
            "--searcher.iterations",
            "20",
            "--guide",
            "brightness",
            "--budget",
            "1434",
        ],
        "budget is 1434, too small for gradient: it needs 1435 network passes per prompt",
    ),
    "checkpoint seconds": (["--checkpoint-seconds", "-1"], "checkpoint_seconds is -1"),
    "config": (["--config", "nothing.yaml"], "nothing.yaml: no such file"),
    "resume": (["--resume", "nothing"], "nothing is no run folder"),
    "resume with more": (["--resume", "nothing", "--quiet"], "nothing is no run folder"),
    "output": (["--output", "/dev/null/x"], "cannot use /dev/null/x as a run folder"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_request_gets_one_line_and_no_folder(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = REFUSALS[name]
    assert cli.main(["search", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("jaxsearch: ")
    assert error.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "unknown command 'serch': did you mean search"),
        (["list", "searcherz"], "did you mean searchers"),
        (["search", "--devices", "99"], "devices is 99: this machine has 8"),
        (["search", "--devices", "0"], "devices is 0: it must be a whole number from 1"),
        (["replay"], "required: RUN"),
        (["replay", "nothing"], "nothing is no run folder"),
        (["plan", "--solver.churn", "0"], "injects none"),
    ],
)
def test_bad_requests_of_other_commands(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_occupied_folder_is_never_touched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    assert cli.main(["search", *SMALL, "--output", str(run)]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert contents(run) == before
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.main(["search", *SMALL, "--output", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    assert cli.main(["search", *SMALL, "--output", str(tmp_path / "mine.txt")]) == 2
    assert "cannot use" in capsys.readouterr().err


def _flip(path: Path, line: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace('"id": ', '"id": 9', 1)
    path.write_text("".join(lines))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: _flip(run / "recipes.jsonl", 2), "recipes.jsonl is damaged at line 3"),
        (lambda run: (run / "recipes.jsonl").unlink(), "has no recipes.jsonl"),
        (lambda run: (run / "recipes.jsonl").write_bytes(b"\xff\xfe"), "not text"),
        (lambda run: (run / "config.yaml").unlink(), "is no run folder"),
        (lambda run: (run / "config.yaml").write_text("{"), "config.yaml is damaged at line 1"),
        (
            lambda run: (run / "config.yaml").write_text("prompts: [1]\nschedule: {num_steps: 6}"),
            "it holds 2 recipes of 6 steps, the config asks for 1 of 6",
        ),
    ],
)
def test_a_damaged_run_is_named(
    copied: Path,
    damage: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(copied)
    assert cli.main(["replay", str(copied)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_full_disk_gets_one_line_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", source)

    monkeypatch.setattr(os, "replace", full)
    assert cli.main(["search", *SMALL, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxsearch: cannot read or write")
    assert "no space left on device" in error
    assert contents(tmp_path) == {}


def test_a_config_with_resume_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--seed", "3"], ["--searcher", "zero_order"], ["--output", "x"]):
        assert cli.main(["search", "--resume", str(run), *option]) == 2
        assert f"{option[0]} cannot be combined with --resume" in capsys.readouterr().err


def test_a_search_that_is_seen_differently_on_replay_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jaxsearch.runs import publish

    real = publish._differences
    monkeypatch.setattr(publish, "_differences", lambda again, seen: real(again, seen) + 0.01)
    assert cli.main(["search", *SMALL, "--output", str(tmp_path / "run"), "--quiet"]) == 0
    assert "warning: made again from their recipes" in capsys.readouterr().err
