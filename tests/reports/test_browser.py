"""Reports in headless Chromium: nothing to complain of, and all of it by keyboard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxsearch import cli
from tests.reports.chromium import CHROMIUM, Chromium
from tests.reports.small import EVIL, multiplied, renamed

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install Debian's package chromium, or another"
)
GAIN = "[data-column='6']"  # of the first verifier


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser with a profile of its own."""
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def is_sound(browser: Chromium) -> None:
    """Nothing went wrong, nothing was asked of a network, nothing sticks out."""
    assert browser.run("window.hacked") is None
    broken = "[...document.images].filter((one) => one.complete && !one.naturalWidth).length"
    assert browser.run(broken) == 0
    assert browser.run("document.body.scrollWidth <= document.documentElement.clientWidth")
    assert browser.complaints == []
    outside = [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))]
    assert outside == []


def tab_to(browser: Chromium, selector: str) -> None:
    """Goes by the tabulator alone to the first element that a selector finds."""
    here = f"document.activeElement === document.querySelector({json.dumps(selector)})"
    for _ in range(200):
        browser.press("Tab")
        if browser.run(here):
            assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"the tabulator never comes to {selector}")


def sorting(browser: Chromium, selector: str) -> str:
    """How a column is sorted."""
    return browser.run(f"document.querySelector({json.dumps(selector)}).closest('th').ariaSort")


def column(browser: Chromium, number: int) -> list[str]:
    """The texts of a column of the first table that can be sorted."""
    rows = "[...document.querySelector('.sortable tbody').rows]"
    return browser.run(f"{rows}.map((row) => row.cells[{number}].textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_run_is_shown(browser: Chromium, reported: Path, scheme: str, width: int) -> None:
    """Kills: figures whose ink is that of the paper; a table that widens the page."""
    browser.open(reported, scheme=scheme, width=width)
    is_sound(browser)
    paper, ink, text = browser.run(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        "getComputedStyle(document.querySelector('figure svg text')).fill]"
    )
    assert text == ink
    levels = [sum(map(int, colour[4:-1].split(","))) / 3 for colour in (paper, ink)]
    assert (levels[0] < 60 and levels[1] > 200) == (scheme == "dark")
    assert (levels[0] > 200 and levels[1] < 60) == (scheme == "light")


def test_a_table_is_sorted_by_keyboard(browser: Chromium, run: Path) -> None:
    """Kills: numbers sorted as texts; a focus that sorting takes away; rows of all at once."""
    multiplied(run, 2000)
    assert cli.main(["report", str(run), "--paths", "0"]) == 0
    browser.open(run / "report.html")
    assert len(column(browser, 0)) == 25
    tab_to(browser, GAIN)
    browser.press("Enter")
    assert sorting(browser, GAIN) == "descending"
    gains = [float(text) for text in column(browser, 6)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == 247.375
    status = "document.querySelector('[role=status]').textContent"
    assert "sorted by classifier (guide), gain, descending" in browser.run(status)
    browser.press(" ")  # the focus is where it was
    assert sorting(browser, GAIN) == "ascending"
    gains = [float(text) for text in column(browser, 6)]
    assert gains == sorted(gains)
    assert gains[0] == -2.5
    sorted_by = "document.querySelectorAll('[aria-sort=ascending], [aria-sort=descending]').length"
    assert browser.run(sorted_by) == 1
    tab_to(browser, "[data-page='last']")
    browser.press("Enter")
    assert browser.run("document.querySelector('[data-place]').textContent") == "page 80 of 80"
    tab_to(browser, "[data-filter]")
    browser.type("PROMPT 19")
    assert "Rows 1 to 25 of 111 (of 2000)" in browser.run(status)
    browser.type("xyz")
    assert column(browser, 0) == []
    is_sound(browser)


def test_what_is_not_known_comes_last(browser: Chromium, run: Path) -> None:
    """Kills: null taken for 0."""
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    lines[1]["scores"]["classifier"]["found"] = None
    (run / "records.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert cli.main(["report", str(run), "--paths", "0"]) == 0
    browser.open(run / "report.html")
    tab_to(browser, GAIN)
    for _ in range(2):
        browser.press("Enter")
        assert column(browser, 6)[-1] == "\N{EN DASH}"
        assert column(browser, 0)[-1] == "2"


def test_prompts_do_nothing(browser: Chromium, run: Path) -> None:
    """Kills: rows that are made of markup."""
    renamed(run, [EVIL, "<b>b</b>", "灯台"])
    assert cli.main(["report", str(run), "--paths", "0"]) == 0
    browser.open(run / "report.html")
    is_sound(browser)
    assert column(browser, 1) == [EVIL, "<b>b</b>", "灯台"]
    assert browser.run("document.images[0].alt") == f"plain picture, pictures, prompt {EVIL}"


def test_a_sweep_is_shown(browser: Chromium, sweep: Path) -> None:
    """Kills: a config whose prompts never come."""
    assert cli.main(["report", str(sweep)]) == 0
    browser.open(sweep / "report.html")
    is_sound(browser)
    tab_to(browser, "details:last-of-type summary")
    browser.press("Enter")
    shown = "document.querySelector('details:last-of-type pre.long').textContent"
    for _ in range(100):  # the event comes after the key
        text = browser.run(shown)
        if "prompts" in text:
            break
        time.sleep(0.02)
    assert text.endswith("prompts: ['3', '5', '3']\n")
    is_sound(browser)
