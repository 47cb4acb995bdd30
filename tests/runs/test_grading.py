"""Graders guide runs of the command, by a service on this machine that misbehaves too."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
import yaml

import jaxsearch
from jaxsearch import cli
from jaxsearch.graders import ASPECTS
from tests.graders.service import Asked, Reply, Service, choice, served

CANDIDATES, PROMPTS = 4, ("3", "5")
SMALL = [
    "--searcher", "best_of_n", "--searcher.candidates", str(CANDIDATES), "--prompts", *PROMPTS,
    "--schedule.num_steps", "4", "--quiet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_use_compilation_cache", lambda folder: None)


def graded(asked: Asked) -> Reply:
    """Grades as `brightness` does: 0 to 10 in each aspect, 0 to 100 together."""
    return choice(json.dumps(dict.fromkeys(ASPECTS, float(asked.image.mean() / 25.5))))


def of(service: Service, grader: str = "five_aspects") -> list[str]:
    """The options of a grader that asks a service."""
    options = {"url": service.url, "model": "critic", "backoff": "0", "price": "[1000.0,1000.0]"}
    return [
        part for key, value in options.items() for part in (f"--verifiers.{grader}.{key}", value)
    ]


def search(*arguments: str, output: str) -> Path:
    assert cli.main(["search", *SMALL, *arguments, "--output", output]) == 0
    return Path(output)


def records(run: Path, name: str = "records.jsonl") -> list[dict]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def found(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((run / "images").glob("found*"))]


def question(asked: Asked) -> str:
    return hashlib.sha256(asked.text.encode() + asked.image.tobytes()).hexdigest()


def test_a_mix_guides_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under weights that leave the grader alone, which says what `brightness` says. Kills: columns
    in another order than the guides; a share that is not honoured; a key that is written down;
    questions that nobody accounts for.
    """
    monkeypatch.setenv("CRITICS_KEY", "sk-1234")
    by_brightness = search("--guide", "brightness", "--report", output="brightness")
    with served(lambda number, asked: graded(asked)) as service:
        more = ["--verifiers.five_aspects.api_key_variable", "CRITICS_KEY", *of(service)]
        runs = [
            search(
                "--guide", *guides, "--aggregate", "weighted", "--aggregate.weights", weights,
                "--report", *more, output=guides[0],
            )
            for guides, weights in (
                (("five_aspects", "classifier"), "[1,0]"),
                (("classifier", "five_aspects"), "[0,1]"),
            )
        ]  # fmt: skip
        assert {asked.headers["Authorization"] for asked in service.asked} == {"Bearer sk-1234"}
        before = len(service.asked)
        half = search(
            "--guide", "brightness", "five_aspects", "--grader-fraction", "0.5",
            "--report", *more, output="half",
        )  # fmt: skip
        asked = service.asked[before:]
    for run in runs:
        assert found(run) == found(by_brightness)
        assert b"sk-1234" not in b"".join(
            path.read_bytes() for path in run.rglob("*") if path.is_file()
        )
    # Of four candidates two, of which the best is published, and a plain sample.
    for place, record in enumerate(records(half)):
        account = record["graders"]["five_aspects"]
        mine = [one for one in asked if f'"{PROMPTS[place]}"' in one.text]
        assert len(mine) == len(set(map(question, mine))) == account["attempts"]
        assert account["questions"] == account["kept"] + account["attempts"] == 2 + 2
        assert account["cost"] == pytest.approx(len(mine) * 1.01)
        assert (account["failed"], record["cost"]["verifier_calls"]) == (0, CANDIDATES + 2)
        scores = record["scores"]
        assert scores["five_aspects"]["role"] == "guide"
        for kind in ("plain", "found"):
            wanted = pytest.approx(100 * scores["brightness"][kind], abs=0.2)
            assert scores["five_aspects"][kind] == wanted
    summary = json.loads((half / "summary.json").read_text())
    assert summary["graders"]["five_aspects"]["attempts"] == len(asked)
    config = yaml.safe_load((half / "config.yaml").read_text())
    assert config["grader_fraction"] == 0.5
    assert config["verifiers"]["five_aspects"]["api_key_variable"] == "CRITICS_KEY"
    assert "grader_fraction" not in (by_brightness / "config.yaml").read_text()


def test_what_is_made_again_asks_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the service nor the key is there any more; a grader that only reports is asked about
    what is published alone.
    """
    monkeypatch.setenv("CRITICS_KEY", "sk-1234")
    with served(lambda number, asked: graded(asked)) as service:
        key = ["--verifiers.five_aspects.api_key_variable", "CRITICS_KEY"]
        run = search(
            "--guide", "brightness", "--report", "five_aspects", *of(service), *key, output="run"
        )
        assert len(service.asked) <= 2 * len(PROMPTS)
        guided = search("--guide", "five_aspects", *of(service), *key, output="guided")
    monkeypatch.delenv("CRITICS_KEY")
    assert all(one["scores"]["five_aspects"]["role"] == "report" for one in records(run))
    for one in (run, guided):
        assert cli.main(["replay", str(one)]) == 0
        assert cli.main(["report", str(one)]) == 0
    assert "would have to be asked once more" in (guided / "report.html").read_text()
    assert "would have to be asked" not in (run / "report.html").read_text()
    assert cli.main(["report", str(guided), "--paths", "1", "--output", "other.html"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "guided has no decisions to show" in error


def test_two_models_of_one_grader(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has settings, a column, an account and answers of its own. Kills: one that is asked for
    both; an answer of one that is kept as the other's; a cap that is everybody's.
    """

    def answer(number: int, asked: Asked) -> Reply:
        # The large one likes the dark.
        grade = float(asked.image.mean() / 25.5)
        grade = 10 - grade if asked.body["model"] == "large" else grade
        return choice(json.dumps(dict.fromkeys(ASPECTS, grade)))

    names = ("five_aspects@small", "five_aspects@large")
    with served(answer) as service:
        options = [
            *of(service, names[0]), *of(service, names[1]),
            *(f"--verifiers.{names[0]}.model", "small", f"--verifiers.{names[1]}.model", "large"),
        ]  # fmt: skip
        given = ["--aggregate", "weighted", "--aggregate.weights", "[0,1]"]
        run = search("--guide", *names, *given, "--report", "brightness", *options, output="run")
        models = collections.Counter(asked.body["model"] for asked in service.asked)
        assert set(models) == {"small", "large"}
        other = search("--guide", "brightness", "--aggregate", "weighted", "--aggregate.weights",
                       "[-1]", "--report", output="other")  # fmt: skip
        cap = ["--verifiers.five_aspects@small.max_requests", "5"]
        capped = search("--guide", *names, "--report", *options, *cap, output="capped")
    assert found(run) == found(other)
    for record in records(run):
        scores, light = record["scores"], record["scores"]["brightness"]
        assert scores[names[0]]["found"] == pytest.approx(100 * light["found"], abs=0.2)
        assert scores[names[1]]["found"] == pytest.approx(100 - 100 * light["found"], abs=0.2)
    summary = json.loads((run / "summary.json").read_text())["graders"]
    assert [summary[name]["attempts"] for name in names] == [models["small"], models["large"]]
    summary = json.loads((capped / "summary.json").read_text())["graders"]
    assert summary[names[0]]["attempts"] == 5
    assert summary[names[0]]["failed"] > summary[names[1]]["failed"] == 0
    config = yaml.safe_load((run / "config.yaml").read_text())["verifiers"]
    assert [config[name]["model"] for name in names] == ["small", "large"]
    assert cli.main(["replay", "run"]) == 0
    assert cli.main(["report", "run"]) == 0
    assert names[0] in (run / "report.html").read_text()
    capsys.readouterr()


def test_what_fails_is_recorded_and_never_wins(capsys: pytest.CaptureFixture[str]) -> None:
    """The least grade wins, so that a zero would. Kills: a failure that counts as one."""
    ill: set[str] = set()

    def answer(number: int, asked: Asked) -> Reply:
        if number % 3 == 1:
            ill.add(question(asked))
        return Reply(b"cannot look", status=400) if question(asked) in ill else graded(asked)

    with served(answer) as service:
        least = ["--aggregate", "weighted", "--aggregate.weights", "[-1]"]
        run = search("--guide", "five_aspects", *least, *of(service), output="run")
    lines = records(run, "grades.jsonl")
    failed = [line for line in lines if "failure" in line]
    assert len(failed) >= len(ill) > 1
    assert not {line["key"] for line in failed} & {line["key"] for line in lines if "score" in line}
    assert all("answers 400: cannot look" in line["failure"] for line in failed)
    account = json.loads((run / "summary.json").read_text())["graders"]["five_aspects"]
    assert (account["failed"], account["questions"]) == (len(failed), len(lines))
    for record in records(run):
        scores = [line["score"] for line in lines if line["id"] == record["id"] and "score" in line]
        assert record["scores"]["five_aspects"]["found"] == pytest.approx(min(scores), abs=0.2)
        mine = [line for line in failed if line["id"] == record["id"]]
        assert record["graders"]["five_aspects"]["failed"] == len(mine)
    assert cli.main(["report", "run"]) == 0  # pictures without a score, too
    said = capsys.readouterr().err
    assert f"{len(failed)} of {len(lines)} questions to five_aspects have failed" in said


def test_a_service_that_answers_nothing_stops_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """And it goes on once the service answers. Kills: a search that is carried out in vain."""
    well = False

    def answer(number: int, asked: Asked) -> Reply:
        return graded(asked) if well else Reply(b"no such model", status=404)

    with served(answer) as service:
        assert cli.main(["search", *SMALL, "--guide", "five_aspects", *of(service),
                         "--output", "run"]) == 2  # fmt: skip
        (line,) = capsys.readouterr().err.strip().splitlines()
        num = CANDIDATES * len(PROMPTS)
        assert f"five_aspects has answered none of {num} questions" in line
        assert "404: no such model" in line
        assert "--resume run" in line
        assert len(service.asked) == num
        well = True
        assert cli.main(["search", "--resume", "run", "--quiet"]) == 0
    account = json.loads(Path("run/summary.json").read_text())["graders"]["five_aspects"]
    assert account["failed"] == num


def test_a_cap_holds_for_the_whole_run() -> None:
    """Kills: a cap that begins anew when a run is taken up again."""
    well = False

    def answer(number: int, asked: Asked) -> Reply:
        return graded(asked) if well else Reply(b"", status=404)

    with served(answer) as service:
        cap = ["--verifiers.five_aspects.max_requests", "12"]
        arguments = [*SMALL, "--guide", "five_aspects", *of(service), *cap, "--output", "run"]
        assert cli.main(["search", *arguments]) == 2
        well = True
        assert cli.main(["search", "--resume", "run", "--quiet"]) == 0
        assert len(service.asked) == 12
    lines = records(Path("run"), "grades.jsonl")
    assert any("cap of 12 requests" in line.get("failure", "") for line in lines)
    account = json.loads(Path("run/summary.json").read_text())["graders"]["five_aspects"]
    assert account["attempts"] == 12


PACKAGE = Path(jaxsearch.__file__).parent
LONG = [
    "--searcher", "zero_order", "--searcher.iterations", "12", "--searcher.neighbours", "2",
    "--prompts", *PROMPTS, "--schedule.num_steps", "4", "--quiet", "--guide", "classifier",
    "five_aspects", "--grader-fraction", "0.5", "--report",
]  # fmt: skip


@contextlib.contextmanager
def launched(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxsearch.cli", "search", "--checkpoint-seconds", "0", *arguments],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_killed_run_asks_nothing_twice() -> None:
    """But what was under way. It comes to what an undisturbed run finds."""
    late = False

    def answer(number: int, asked: Asked) -> Reply:
        reply = graded(asked)
        reply.delay = 0.1 if late else 0.0
        return reply

    with served(answer) as service:
        assert cli.main(["search", *LONG, *of(service), "--output", "whole"]) == 0
        num_whole, late = len(service.asked), True
        service.asked.clear()
        cache = ["--compilation-cache", jax.config.jax_compilation_cache_dir]
        with launched(*LONG, *of(service), *cache, "--output", "killed") as process:
            deadline = time.monotonic() + 200
            while len(service.asked) < num_whole // 2:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not Path("killed/summary.json").exists()
        noted = Path("killed/grades.jsonl")
        with noted.open("a") as file:
            file.write('{"grader": "five_asp')  # a line that the kill has cut off
        assert cli.main(["search", "--resume", "killed", "--quiet"]) == 0
        counts = collections.Counter(map(question, service.asked))
    twice = [one for one, number in counts.items() if number > 1]
    assert len(twice) <= 2  # the questions of one round
    assert num_whole <= len(service.asked) <= num_whole + 2
    whole, killed = Path("whole"), Path("killed")
    assert found(whole) == found(killed)
    assert (whole / "recipes.jsonl").read_bytes() == (killed / "recipes.jsonl").read_bytes()
    for one, other in zip(records(whole), records(killed), strict=True):
        assert (one["scores"], one["cost"]) == (other["scores"], other["cost"])
    assert records(killed, "grades.jsonl")


def test_a_function_of_python_guides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills: a prompt that is not told; a function exchanged while its grades are kept."""
    own = tmp_path / "scores_of_mine.py"
    text = "def score(image, prompt):\n    assert prompt in ('a 3', 'a 5')\n"
    own.write_text(text + "    return image.mean() / 255\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    told = ["--verifiers.function.told", "a {}"]
    options = ["--verifiers.function.path", "scores_of_mine:score", *told]
    run = search("--guide", "function", "--report", "brightness", *options, output="run")
    for record in records(run):
        scores = record["scores"]
        wanted = pytest.approx(scores["brightness"]["found"], abs=0.002)
        assert scores["function"]["found"] == wanted
    assert "function/scores_of_mine" in json.loads((run / "versions.json").read_text())["files"]
    # One that fails always, and another one in its place.
    (tmp_path / "ill.py").write_text("def score(image, prompt):\n    raise OSError('no eyes')\n")
    options = ["--verifiers.function.path", "ill:score"]
    assert cli.main(["search", *SMALL, "--guide", "function", *options, "--output", "ill"]) == 2
    assert "OSError: no eyes" in capsys.readouterr().err
    (tmp_path / "ill.py").write_text(text)
    assert cli.main(["search", "--resume", "ill"]) == 2
    assert "function/ill is not what it was when this run began" in capsys.readouterr().err


URL = ["--verifiers.five_aspects.url", "http://127.0.0.1:9/v1"]
WHO = [*URL, "--verifiers.five_aspects.model", "critic"]
MISTAKES = {
    "no url": ([], "give --verifiers.five_aspects.url, such as http"),
    "no model": (URL, "give --verifiers.five_aspects.model"),
    "no server": (WHO, "nobody answers at http://127.0.0.1:9/v1"),
    "no key": (
        [*WHO, "--verifiers.five_aspects.api_key_variable", "CRITICS_KEY"],
        "the environment variable CRITICS_KEY is not set",
    ),
    "a key": (
        [*WHO, "--verifiers.five_aspects.api_key_variable", "sk-1234"],
        "api_key_variable is not the name of an environment variable",
    ),
    "a secret": (
        ["--verifiers.five_aspects.url", "http://me:sk-1234@host/v1", *WHO[2:]],
        "url has a user, a query or a fragment",
    ),
    "price": ([*WHO, "--verifiers.five_aspects.max_cost", "1"], "max_cost needs the price"),
    "type": ([*WHO, "--verifiers.five_aspects.price", "cheap"], "price is 'cheap': pass a list"),
    "told": ([*WHO, "--verifiers.five_aspects.told", "a cat"], "told is 'a cat'"),
    "setting": ([*WHO, "--verifiers.five_aspects.modle", "x"], "did you mean --verifiers.five"),
    "fraction": ([*WHO, "--grader-fraction", "0"], "grader_fraction is 0.0: it must lie in (0, 1]"),
    "concurrency": ([*WHO, "--grader-concurrency", "0"], "grader_concurrency is 0"),
    "unknown": (["--guide", "six_aspects"], "unknown verifier 'six_aspects': did you mean five"),
    "name": (["--guide", "five_aspects@"], "is no name of a grader: behind the @ comes a word"),
    "twice": (
        ["--guide", "five_aspects", "five_aspects"],
        "name each verifier once, or one of them five_aspects@other",
    ),
    "no word": (["--guide", "five_aspects@a.b"], "such as five_aspects@small"),
    "no url of one": (["--guide", "function@mine"], "by --verifiers.function@mine.path"),
    "no grader": (["--guide", "brightness", "--grader-fraction", "0.5"], "no guide is a grader"),
    "no path": (["--guide", "function"], "path is '': give the module"),
    "no module": (
        ["--guide", "function", "--verifiers.function.path", "nothing_here:score"],
        "there is no module nothing_here",
    ),
    "no function": (
        ["--guide", "function", "--verifiers.function.path", "json:score"],
        "json:score: json has no function 'score'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given, message = MISTAKES[name]
    guide = [] if "--guide" in given else ["--guide", "five_aspects"]
    assert cli.main(["search", *SMALL, *guide, *given, "--output", "run"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert "sk-1234" not in line
    assert not Path("run").exists()


MIXES = {
    "nobody chooses": (["--guide", "five_aspects", "--grader-fraction", "0.5"], "no other guide"),
    "gradient": (
        ["--guide", "five_aspects", "brightness", "--searcher", "gradient"],
        "'five_aspects' has no gradient",
    ),
    "threshold": (
        ["--guide", "five_aspects", "brightness", "--aggregate", "mean_rank", "--threshold", "1"],
        "a threshold needs scores",
    ),
}


@pytest.mark.parametrize("name", MIXES)
def test_mixes_that_cannot_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    given, message = MIXES[name]
    small = SMALL if "--searcher" not in given else ["--schedule.num_steps", "4"]
    with served(lambda number, asked: graded(asked)) as service:
        assert cli.main(["search", *small, *given, *of(service), "--output", "run"]) == 2
        assert not service.asked
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not Path("run").exists()


def test_a_plan_says_how_many_questions(capsys: pytest.CaptureFixture[str]) -> None:
    """As many as a run asks; nobody is asked for it, and no server need be there."""
    given = ["--guide", "brightness", "five_aspects", "--grader-fraction", "0.3", *WHO]
    assert cli.main(["plan", *SMALL[:-1], *given]) == 0
    out = capsys.readouterr().out
    assert "five_aspects 4 per prompt at most" in out
    calls = CANDIDATES + 2
    assert f"verifier calls {calls} {2 * calls}" in " ".join(out.split())


def test_they_are_listed_among_verifiers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "verifiers"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    found = {line[1]: line[3:] for line in lines if line[1] in ("five_aspects", "function")}
    assert found["five_aspects"][:3] == ["0 to 100", "no", "pixels, prompt"]
    assert found["function"][0] == "any"
