"""Segments: which steps a searcher of injected noise acts on, and with what steps in one round."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsearch.core.noise import fresh_branches, fresh_trajectory, take
from jaxsearch.core.segments import check_segments, runs, segments
from jaxsearch.core.space import noise_space
from tests import cases, toys


def space(solver: str = "heun_edm"):
    return noise_space(toys.problem(cases.solvers()[solver]), 1)


def found(begins: str, every: int) -> list[str]:
    """Segments of a line of steps, `x` where one may begin: searched ones in capitals."""
    line = space()._replace(num_steps=len(begins), levels=(1.0,) * len(begins))
    divided = segments(
        line, every=every, window=None, what="it", begins=[letter == "x" for letter in begins]
    )
    assert [one.begin for one in divided] == [0, *(one.end for one in divided[:-1])]
    assert divided[-1].end == len(begins)
    return [("S" if one.searched else "p") + str(one.num_steps) for one in divided]


@pytest.mark.parametrize(
    ("begins", "every", "expected"),
    [
        ("xxx", 1, "S1 S1 S1"),
        ("..xx.", 1, "p2 S1 S1 p1"),
        ("xxxxx", 2, "S2 S2 S1"),
        ("..xxxx", 3, "p2 S3 S1"),
        ("x.x...x.", 2, "S2 S2 p2 S2"),
        ("x...", 9, "S4"),
    ],
)
def test_steps_are_divided_from_left_to_right(begins, every, expected):
    """Kills: a segment that begins at a step without noise; one beyond the last step."""
    assert found(begins, every) == expected.split()


def test_levels_are_those_of_the_steps():
    """Kills: levels of where steps end; a division by the signal of pure noise."""
    levels = space().levels
    assert len(levels) == cases.NUM_STEPS
    np.testing.assert_allclose((levels[0], levels[-1]), (20.0, 0.002), rtol=1e-6)
    assert space("flow_sde").levels[0] == math.inf


def test_a_window_holds_the_levels_at_which_segments_begin():
    """Kills: the ends of segments compared instead; the window's own ends left out."""
    one = space()
    low, high = one.levels[3], one.levels[1]
    divided = segments(one, every=2, window=(low, high), what="it")
    assert [(s.begin, s.end, s.searched) for s in divided] == [
        (0, 1, False),
        (1, 3, True),
        (3, 5, True),
        (5, 6, False),
    ]
    everything = segments(space("flow_sde"), every=1, window=(0.0, math.inf), what="it")
    assert [s.searched for s in everything] == [True] * 5 + [False]


def test_equal_segments_are_the_rounds_of_one_stage():
    divided = segments(space("flow_sde"), every=2, window=None, what="it")
    assert [len(run) for run in runs(divided)] == [3]
    divided = segments(space("flow_sde"), every=4, window=None, what="it")
    assert [[(s.begin, s.end) for s in run] for run in runs(divided)] == [[(0, 4)], [(4, 6)]]


def test_first_branches_are_the_plain_trajectories():
    """Kills: rows off by one; children of one candidate side by side; draws that repeat."""
    one = space()
    keys = jax.random.split(jax.random.key(1), 3)
    noise = fresh_branches(one, keys, jnp.int32(2), 4, 2)
    plain = jax.vmap(lambda key: fresh_trajectory(one, key))(keys)
    data = jax.random.key_data(noise.keys)
    np.testing.assert_array_equal(
        data[:3], jax.random.key_data(take(plain, (slice(None), slice(3, 7))).keys)
    )
    np.testing.assert_array_equal(noise.coefs[3:], plain.coefs[:, 3:7])
    assert len(np.unique(np.asarray(data).reshape(-1, 2), axis=0)) == 24


@pytest.mark.parametrize(
    ("every", "window", "message"),
    [
        (0, None, "every is 0"),
        (1, (2.0, 1.0), r"window is \(2.0, 1.0\)"),
        (1, (-1.0, 1.0), "window is"),
        (1, (1.0,), r"window is \(1.0,\)"),
        (1, 5.0, "window is 5.0"),
        (1, (1.0, 2.0, 3.0), "window is"),
        (1, (float("nan"), 1.0), "window is"),
    ],
)
def test_bad_settings_are_refused(every, window, message):
    with pytest.raises(ValueError, match=message):
        check_segments(every, window)


def test_nothing_to_search_is_refused():
    with pytest.raises(ValueError, match=r"window is \(30.0, 40.0\), which leaves it no step"):
        segments(space(), every=1, window=(30.0, 40.0), what="it")
    with pytest.raises(ValueError, match="injects none"):
        segments(space("ddim"), every=1, window=None, what="it")
