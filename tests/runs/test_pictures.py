"""Pictures on disk and the curve behind the plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxsearch.core.pixels import to_pixels
from jaxsearch.core.types import Cost, Trace
from jaxsearch.runs.errors import UserError
from jaxsearch.runs.images import contact_sheet, read_png, write_png
from jaxsearch.runs.plots import curves_dict, curves_of, plot_curves


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), pixels)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name in ("a.png", "missing.png"):
        with pytest.raises(UserError, match=name):
            read_png(tmp_path / name)


def test_pixels_are_rounded_to_the_nearest_level() -> None:
    values = np.array([0.0, 1.0, 0.49 / 255, 0.51 / 255, 2.0, -1.0, np.nan])
    np.testing.assert_array_equal(to_pixels(values), [0, 255, 0, 1, 255, 0, 0])


def test_sheet_shows_plain_left_of_found() -> None:
    plain, found = np.full((3, 8, 8, 1), 50, np.uint8), np.full((3, 8, 8, 1), 200, np.uint8)
    sheet = contact_sheet(
        "title", ["0", "a very long prompt " * 9, "2"], plain, found, np.zeros(3), np.ones(3)
    )
    pixels = np.asarray(sheet.convert("L"))
    for level in (50, 200):
        assert np.count_nonzero(pixels == level) >= 3 * 96 * 96
    columns = [np.flatnonzero((pixels == level).sum(0) >= 96) for level in (50, 200)]
    assert columns[0].min() < columns[1].min()


def test_a_prompt_of_two_lines_has_one_on_the_sheet() -> None:
    """Kills: text that is written over the picture below it."""
    images, scores = np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1)
    one, two = (
        np.asarray(contact_sheet("t", [prompt], images, images, scores, scores))
        for prompt in ("a cat", "a\ncat")
    )
    np.testing.assert_array_equal(one, two)


def test_sheet_of_many_prompts_stays_a_picture() -> None:
    images = np.zeros((500, 8, 8, 3), np.uint8)
    sheet = contact_sheet("t", ["x"] * 500, images, images, np.zeros(500), np.zeros(500))
    assert max(sheet.size) < 3000


def test_sheet_with_failed_scores() -> None:
    images, scores = np.zeros((2, 8, 8, 1), np.uint8), np.array([np.nan, -np.inf])
    assert isinstance(contact_sheet("t", ["0", "1"], images, images, scores, scores), Image.Image)


def trace() -> Trace:
    best = np.array([[-np.inf, -np.inf, -np.inf], [0.1, 0.2, -np.inf], [0.3, 0.2, 0.7]])
    passes = np.array([[10, 10, 10], [20, 20, 40], [30, 30, 60]])
    return Trace(best, best + 1, Cost(passes))


def test_curve_is_the_median_over_prompts_by_passes() -> None:
    curves = curves_of(trace(), 5, np.array([0.0, 0.05, np.nan]))
    np.testing.assert_array_equal(curves["best"].network_passes, [20, 30])
    np.testing.assert_array_equal(curves["best"].median, [0.1, 0.3])
    np.testing.assert_array_equal(curves["best"].high, [0.1, 0.3])
    np.testing.assert_array_equal(curves["best"].low, [-np.inf, 0.2])
    assert curves["plain"].median == 0.0
    assert curves_dict(curves)["best"]["low"] == [None, 0.2]


def test_plot_is_drawn_for_every_length(tmp_path: Path) -> None:
    full = trace()
    for name, rounds in {"none": slice(0, 1), "one": slice(2, 3), "all": slice(None)}.items():
        part = Trace(
            full.best[rounds], full.current[rounds], Cost(full.cost.network_passes[rounds])
        )
        path = tmp_path / f"{name}.png"
        for plain in (np.zeros(3), np.array([0.0, np.nan, np.nan]), np.array([np.nan, 0.0, 1.0])):
            plot_curves(path, curves_of(part, 5, plain), title="t", score="s")
            assert read_png(path).shape[0] > 300
