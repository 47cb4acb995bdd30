"""The tree of candidates, from the rounds of a search."""

from __future__ import annotations

import re

import numpy as np

from jaxsearch.core.watch import Tried
from jaxsearch.reports.decisions import Tree, tree_of
from jaxsearch.reports.figures import branches, rounds_figure, steps_figure, tree_figure


def round_of(begin: list[int], end: list[int], score: list[float], way: list[list[int]]) -> Tried:
    """A round of one prompt."""
    numbers = (np.asarray([one]) for one in (score, begin, end))
    return Tried(*numbers, np.asarray([way], np.uint32))


ROUNDS = [
    # Two starts, of which the second comes to something.
    round_of([0, 0], [1, 1], [0.1, 0.2], [[7, 1, 0], [8, 2, 0]]),
    # Each has a child; the third candidate rests.
    round_of([1, 1, 1], [2, 2, 1], [0.3, -np.inf, -np.inf], [[8, 2, 3], [7, 1, 4], [7, 1, 0]]),
]


def test_a_candidate_hangs_below_the_one_it_goes_on_from() -> None:
    """Kills: parents by place instead of by way; candidates at rest; winners by score."""
    tree = tree_of(ROUNDS, 0, np.asarray([8, 2, 3], np.uint32), 0.3)
    assert tree.round.tolist() == [0, 0, 1, 1]
    assert tree.number.tolist() == [0, 1, 0, 1]
    assert tree.end.tolist() == [1, 1, 2, 2]
    assert tree.parent.tolist() == [-1, -1, 1, 0]
    assert tree.won.tolist() == [False, True, True, False]
    assert branches(tree)


def test_a_search_that_goes_on_from_one_alone_does_not_branch() -> None:
    second = round_of([1, 1], [2, 2], [0.3, 0.4], [[8, 2, 3], [8, 2, 4]])
    tree = tree_of([ROUNDS[0], second], 0, np.asarray([8, 2, 4], np.uint32), 0.3)
    assert tree.parent.tolist() == [-1, -1, 1, 1]
    assert not branches(tree)


def test_of_candidates_with_the_same_keys_that_of_the_score_has_won() -> None:
    """As a gradient's. Kills: the first of them, or all."""
    again = [round_of([0], [2], [score], [[5, 1, 0]]) for score in (0.1, 0.7, 0.6)]
    tree = tree_of(again, 0, np.asarray([5, 1, 0], np.uint32), 0.69999)
    assert tree.won.tolist() == [False, True, False]


def test_figures_of_any_size() -> None:
    """Nothing tried, one candidate, failed ones, and more than are drawn one by one."""
    empty = tree_of([], 0, np.zeros((3,), np.uint32), 0.3)
    assert empty.score.shape == (0,)
    num = 5000
    places = np.arange(num)
    crowd = Tree(
        places // 10, places % 10, places % 3, places % 3 + 1, np.sin(places),
        np.where(places % 3 > 0, places - 1, -1), places >= num - 3,
    )  # fmt: skip
    failed = tree_of(ROUNDS, 0, np.zeros((3,), np.uint32), 0.3)._replace(
        score=np.full((4,), -np.inf)
    )
    for number, tree in enumerate((empty, failed, crowd, tree_of(ROUNDS, 0, np.zeros((3,)), 0.3))):
        for draw in (steps_figure, tree_figure):
            assert len(draw(f"a{number}", tree, "$x < y$")) < 600_000
        assert "<svg role" in rounds_figure(f"b{number}", tree, 0.5, "$x < y$")


def test_a_figure_has_the_colours_of_the_page_and_escapes_its_words() -> None:
    tree = tree_of(ROUNDS, 0, np.asarray([8, 2, 3], np.uint32), 0.3)
    text = steps_figure("one", tree, '<b>"$score$"')
    assert "var(--found)" in text
    assert "#0a0" not in text
    assert "<b>" not in text
    assert "$score$" in text
    own, other = (
        set(re.findall(' id="([^"]*)"', one)) for one in (text, steps_figure("b", tree, "x"))
    )
    assert own
    assert not own & other
