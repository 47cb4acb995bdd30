"""`jaxsearch report`: what is in a page, and every refusal."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from jaxsearch import cli
from jaxsearch.reports.pictures import picture_from, side_for
from jaxsearch.runs.images import read_png, write_png
from jaxsearch.sweeps.records import read_table, write_table
from tests.reports.small import EVIL, multiplied, renamed


class Page(HTMLParser):
    """The elements of a page, and the texts inside them."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def tables(text: str) -> list[dict[str, Any]]:
    """What the page's script reads."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    return [json.loads(one) for one in found]


def made(folder: Path, *options: str) -> str:
    """The page of a run or a sweep."""
    assert cli.main(["report", str(folder), *options]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]


# --------------------------------------------------------------------------------------- a good run


def test_a_page_needs_nothing_but_itself(reported: Path) -> None:
    """Kills: an address of a network, a second script, a figure's id that is there twice."""
    text = reported.read_text(encoding="utf-8")
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    assert "url(http" not in text
    assert "@import" not in text
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    policy = next(one["content"] for one in page.of("meta") if "http-equiv" in one)
    assert "default-src 'none'" in str(policy)
    scripts = [one for one in page.of("script") if "type" not in one]
    assert len(scripts) == 1


def test_a_page_can_be_heard_and_typed(reported: Path) -> None:
    page = Page(reported.read_text(encoding="utf-8"))
    assert page.of("html")[0]["lang"] == "en"
    assert all(one.get("alt") for one in page.of("img"))
    assert all(one.get("scope") for one in page.of("th"))
    for one in page.of("svg"):
        assert one["role"] == "img"
        assert one["aria-label"]
    sortable = [one for one in page.of("th") if "aria-sort" in one]
    assert len(sortable) == len([one for one in page.of("button") if "data-column" in one]) > 10
    for one in page.elements:  # what scrolls can be reached
        if one[1].get("class") == "scroll":
            assert one[1]["tabindex"] == "0"
            assert one[1].get("aria-label") or one[1].get("aria-labelledby")


def test_a_page_holds_the_records_and_the_pictures(finished: Path, reported: Path) -> None:
    """Kills: found shown as plain; gains with the wrong sign; rows of other prompts."""
    (table,) = tables(reported.read_text(encoding="utf-8"))
    names = [(column["group"], column["name"]) for column in table["columns"]]
    for place, record in enumerate(records(finished)):
        row = dict(zip(names, table["rows"][place], strict=True))
        assert row["", "number"] == place + 1
        assert row["", "prompt"] == record["prompt"]
        assert row["", "network passes"] == record["cost"]["network_passes"]
        for name, entry in record["scores"].items():
            group = f"{name} ({entry['role']})"
            assert row[group, "plain"] == entry["plain"]
            assert row[group, "found"] == entry["found"]
            assert row[group, "gain"] == entry["found"] - entry["plain"]
        for kind in ("plain", "found"):
            png = base64.b64decode(row["pictures", kind].removeprefix("data:image/png;base64,"))
            assert png == (finished / "images" / f"{kind}_{place:04d}.png").read_bytes()


def test_a_page_says_costs_means_and_how_to_make_it_again(finished: Path, reported: Path) -> None:
    text = reported.read_text(encoding="utf-8")
    page = Page(text)
    summary = json.loads((finished / "summary.json").read_text())
    gain = summary["scores"]["classifier"]["gain"]
    half = (gain["high"] - gain["low"]) / 2
    assert f"{gain['mean']:.3f}\xa0±\xa0{half:.3f}" in page.texts["td"]
    for cost in ("cost_per_prompt", "plain_cost_per_prompt", "cost_total"):
        assert f"{summary[cost]['network_passes']:,}" in page.texts["td"]
    config = (finished / "config.yaml").read_text()
    saved = next(one["href"] for one in page.of("a") if "download" in one)
    assert base64.b64decode(str(saved).split(",")[1]).decode() == config
    shown = "".join(page.texts["pre"])
    assert config in shown
    assert "jaxsearch search --config config.yaml" in shown
    assert f"jaxsearch replay {finished}" in shown


def test_decisions_are_those_of_the_run(finished: Path, reported: Path) -> None:
    """The last picture by step is the run's own. Kills: pictures or a tree of another prompt."""
    text = reported.read_text(encoding="utf-8")
    page = Page(text)
    assert "another sample" not in "".join(page.texts["p"])
    gains = [
        one["scores"]["classifier"]["found"] - one["scores"]["classifier"]["plain"]
        for one in records(finished)
    ]
    chosen = [int(np.argmax(gains)), int(np.argmin(gains))]
    prompts = [text for text in page.texts["h3"] if text.startswith("Prompt ")]
    assert [text.split(":")[0] for text in prompts] == [f"Prompt {i + 1}" for i in chosen]
    pictures = [one["src"] for one in page.of("img")]
    assert len(pictures) == 2 * 2 * 6  # prompts, plain and found, steps
    for number, place in enumerate(chosen):
        for kind in (0, 1):
            last = str(pictures[(2 * number + kind + 1) * 6 - 1])
            file = finished / "images" / f"{('plain', 'found')[kind]}_{place:04d}.png"
            content = base64.b64decode(last.split(",")[1])
            again = np.asarray(Image.open(io.BytesIO(content)), int)
            assert np.abs(again - read_png(file)[..., 0]).max() <= 1
    rows = [part.split("</tr>")[0] for part in text.split("the one that won, of round</th>")[1:]]
    for row in rows:
        cells = re.findall(r">(\d*)</td>", row)
        rounds = [int(number) for number in cells if number]
        assert rounds == sorted(set(rounds))
        assert rounds[0] == 1
        assert cells[-1]  # the found sample is among those tried
    assert "And as a tree" in "".join(page.texts["figcaption"])


def test_a_run_is_left_as_it_was(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    first = made(run, "--paths", "0")
    assert "Not asked for" in first
    assert made(run, "--paths", "0") == first  # over the older one
    (run / "report.html").unlink()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_prompts_stay_text(run: Path) -> None:
    """Kills: a template that does not escape; data that ends its own script element."""
    renamed(run, [EVIL, "&lt;b&gt;", "$x$ ümlaut 灯台"])
    text = made(run, "--paths", "0")
    page = Page(text)
    assert [one[0] for one in tables(text)[0]["rows"]] == [1, 2, 3]
    assert [one[1] for one in tables(text)[0]["rows"]] == [EVIL, "&lt;b&gt;", "$x$ ümlaut 灯台"]
    assert len([one for one in page.of("script") if "type" not in one]) == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert "<script>hacked" not in text
    assert yaml.safe_load("".join(page.texts["pre"]).split("\n", 2)[2])["prompts"][0] == EVIL


def test_failed_scores_are_shown_as_such(run: Path) -> None:
    lines = records(run)
    lines[1]["scores"]["judge"]["found"] = None
    (run / "records.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (table,) = tables(made(run, "--paths", "0"))
    judge = [i for i, one in enumerate(table["columns"]) if one["group"] == "judge (report)"]
    assert [table["rows"][1][i] for i in judge][1:] == [None, None]


def test_many_prompts_make_no_large_page(run: Path) -> None:
    multiplied(run, 500)
    text = made(run, "--paths", "0")
    assert len(tables(text)[0]["rows"]) == 500
    assert len(text) < 2_000_000


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    """Kills: pictures of many megabytes in one page; small ones that lose a bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 300, 3), np.uint8)
    address = picture_from(pixels, side_for(4000))
    (tmp_path / "a.jpg").write_bytes(base64.b64decode(address.split(",")[1]))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.size == (64, 128)
    write_png(tmp_path / "b.png", pixels[:100, :100])
    small = picture_from(pixels[:100, :100], side_for(4000))
    assert base64.b64decode(small.split(",")[1]) == (tmp_path / "b.png").read_bytes()


# ------------------------------------------------------------------------------------------ a sweep


def test_a_sweep_has_its_points_side_by_side(sweep: Path) -> None:
    """Kills: scores of another point; seeds apart; configs of another one."""
    text = made(sweep)
    points, prompts = tables(text)[:2]
    page = Page(text)
    found = read_table(sweep / "records.parquet")
    by_point: dict[str, list[float]] = {}
    for searcher, score in zip(*(found[n].to_pylist() for n in ("searcher", "score")), strict=True):
        by_point.setdefault(json.loads(searcher)["name"], []).append(score)
    assert len(points["rows"]) == len(by_point) == 2
    for row, (name, scores) in zip(points["rows"], by_point.items(), strict=True):
        assert name in row[1]
        assert row[2] == "4/4"
        assert row[3] == pytest.approx(np.mean(scores), abs=1e-6)
    assert len(prompts["rows"]) == 6  # three prompts, two seeds
    place = found["prompt"].to_pylist().index("5")
    row = next(one for one in prompts["rows"] if one[1] == "5" and one[2] == 0)
    assert row[4] == pytest.approx(found["score"][place].as_py())
    assert base64.b64decode(row[3].split(",")[1]) == found["image"][place].as_py()
    configs = [one for one in page.texts["pre"] if "model" in one]
    assert len(configs) == 2
    assert yaml.safe_load(configs[1])["searcher"]["name"] == "zero_order"
    assert yaml.safe_load(tables_of_prompts(text)[0]) == {"prompts": ["3", "5", "3"]}
    assert "--seed 1" in "".join(page.texts["pre"])
    assert text.count("<svg role") == 2  # points, and curves


def tables_of_prompts(text: str) -> list[str]:
    found = re.findall(
        r'<script type="application/json" id="prompts-\d+">(.*?)</script>', text, re.DOTALL
    )
    return [json.loads(one) for one in found]


def test_prompts_of_a_sweep_are_in_the_order_of_their_list(sweep: Path) -> None:
    """Kills: rows by id, which of a text is a checksum."""
    for path in (sweep / "units").glob("*.parquet"):
        unit = read_table(path)
        at = unit.column_names.index("prompt_id")
        ids = pa.array([(5, 1, 3)[place] for place in unit["place"].to_pylist()])
        write_table(path, unit.set_column(at, "prompt_id", ids))
    found = [row[1:3] for row in tables(made(sweep))[1]["rows"]]
    assert found == [[prompt, seed] for seed in (0, 1) for prompt in ("3", "5", "3")]


def test_a_sweep_that_is_not_complete_says_so(sweep: Path) -> None:
    units = sorted((sweep / "units").iterdir())
    for unit in units[:3]:
        unit.unlink()
    text = made(sweep)
    assert "5 of 8 units done: the sweep is not complete" in text
    for unit in units[3:]:
        unit.unlink()
    text = made(sweep)
    assert "0 of 8 units done" in text
    assert tables(text)[0]["rows"][0][2:5] == ["0/4", None, None]


# ---------------------------------------------------------------------------------------- bad input


def _without(key: str, path: Path) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "is the folder of no run and of no sweep"),
        (lambda run: (run / "summary.json").unlink(), "holds an unfinished run: go on with"),
        (lambda run: (run / "config.yaml").write_text("{"), "config.yaml is damaged at line 1"),
        (lambda run: (run / "config.yaml").write_text("seed: 1"), "is not the config of a run"),
        (lambda run: (run / "records.jsonl").unlink(), "cannot read the records"),
        (lambda run: (run / "records.jsonl").write_text("{}\n"), "records.jsonl is damaged at"),
        (lambda run: _without("scores", run / "summary.json"), "summary.json is damaged"),
        (lambda run: (run / "curve.json").write_text("{}"), "curve.json is damaged"),
        (lambda run: (run / "curve.json").write_text("["), "curve.json is damaged"),
        (lambda run: (run / "images" / "plain_0001.png").unlink(), "plain_0001.png"),
        (lambda run: (run / "images" / "found_0000.png").write_text("x"), "found_0000.png"),
        (lambda run: (run / "report.html").write_text("mine"), "no report of jaxsearch: choose"),
        (lambda run: (run / "report.html").mkdir(), "report.html is a folder: name a file"),
    ],
)
def test_a_damaged_run_is_named(
    run: Path,
    damage: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(run)
    there = set(run.rglob("*"))
    assert cli.main(["report", str(run), "--paths", "0"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert set(run.rglob("*")) == there


def test_records_that_are_missing_are_counted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text("".join(lines[:2]))
    assert cli.main(["report", str(run), "--paths", "0"]) == 2
    assert "records.jsonl is damaged: it has 2 of 3 records" in capsys.readouterr().err


def test_a_run_whose_model_is_elsewhere_has_a_report_without_decisions(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["name"] = "/nowhere/model"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "Not shown: " in made(run)
    assert "warning: the report has no decisions: " in capsys.readouterr().err
    assert cli.main(["report", str(run), "--paths", "1"]) == 2


def test_a_long_search_is_not_done_again_unasked(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["seconds"]["search"] = 3600.0
    (run / "summary.json").write_text(json.dumps(summary))
    text = made(run)
    assert "the search took 3,600 seconds" in text
    assert "Step by step" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "required: RUN_OR_SWEEP"),
        (["report", "nothing"], "nothing is the folder of no run and of no sweep"),
        (["report", "nothing", "--paths", "-1"], "paths is -1: it must be 0 or more"),
        (["report", "nothing", "--path", "1"], "unrecognized arguments: --path"),
    ],
)
def test_bad_requests(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_sweep_has_no_paths_and_damage_is_named(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(sweep), "--paths", "1"]) == 2
    assert "which --paths is not for" in capsys.readouterr().err
    next(iter((sweep / "units").iterdir())).write_bytes(b"x")
    assert cli.main(["report", str(sweep)]) == 2
    assert "cannot be read: remove it, and its unit is searched again" in capsys.readouterr().err
    shutil.copy(sweep / "records.parquet", sweep / "manifest.json")
    assert cli.main(["report", str(sweep)]) == 2
    assert "cannot read the manifest" in capsys.readouterr().err


def test_a_report_of_another_place(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    assert cli.main(["report", str(run), "--paths", "0", "--output", str(page)]) == 0
    assert page.is_file()
    assert not (run / "report.html").exists()
