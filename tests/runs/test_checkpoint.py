"""A search comes back from disk as it was, typed keys and all."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsearch.core.search import result_of, search, search_in_chunks, start
from jaxsearch.runs.checkpoint import Checkpoints, pack
from jaxsearch.runs.errors import UserError
from jaxsearch.searchers import gradient
from tests.conftest import as_users_compile
from tests.runs.small import ARGUMENTS, PROBLEM, PROMPTS, shapes


def assert_same(one, two) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(*(np.asarray(leaf) for leaf in pack((a, b))))


@as_users_compile
def test_the_search_goes_on_to_the_same_end(tmp_path: Path) -> None:
    key = jax.random.key(3)
    chunks = search_in_chunks(key, *ARGUMENTS, rounds_per_chunk=2)
    next(chunks)
    state = next(chunks)
    saving = Checkpoints(tmp_path / "checkpoint", 0.0)
    saving.offer(state, 12.5)
    saving.wait()

    restored = Checkpoints(tmp_path / "checkpoint", 0.0).restore(lambda: shapes(key))
    assert restored is not None
    assert restored[1] == 12.5
    assert_same(state, restored[0])
    *_, last = search_in_chunks(key, *ARGUMENTS, rounds_per_chunk=5, state=restored[0])
    assert_same(result_of(last), search(key, *ARGUMENTS))


def test_an_optimizer_and_free_parts_come_back_too(tmp_path: Path) -> None:
    """Kills: a state whose structure hangs on what is in it."""
    key, searcher = jax.random.key(3), gradient(iterations=2)
    arguments = (searcher, PROBLEM, PROMPTS)
    state, *_, last = search_in_chunks(key, *arguments, rounds_per_chunk=1)
    like = jax.eval_shape(lambda k: start(k, *arguments), key)
    saving = Checkpoints(tmp_path / "checkpoint", 0.0)
    saving.save(state, 0.0)
    saving.wait()
    restored = Checkpoints(tmp_path / "checkpoint", 0.0).restore(lambda: like)
    assert restored is not None
    assert_same(state, restored[0])
    *_, again = search_in_chunks(key, *arguments, rounds_per_chunk=1, state=restored[0])
    assert_same(again, last)
    assert np.any(np.asarray(last.searcher.free))


def test_only_the_newest_is_kept_and_then_none(tmp_path: Path) -> None:
    key, folder = jax.random.key(0), tmp_path / "checkpoint"
    checkpoints = Checkpoints(folder, 0.0)
    for state in search_in_chunks(key, *ARGUMENTS, rounds_per_chunk=1):
        checkpoints.offer(state, 0.0)
    checkpoints.wait()
    assert [path.name for path in folder.iterdir() if path.name.isdigit()] == [str(state.round)]
    checkpoints.remove()
    assert not folder.exists()


def test_saving_twice_is_saving_once(tmp_path: Path) -> None:
    key = jax.random.key(0)
    checkpoints = Checkpoints(tmp_path / "checkpoint", 0.0)
    state = next(search_in_chunks(key, *ARGUMENTS, rounds_per_chunk=1))
    checkpoints.offer(state, 0.0)
    checkpoints.save(state, 0.0)  # as on Ctrl-C right after
    restored = checkpoints.restore(lambda: shapes(key))
    assert restored is not None
    assert_same(state, restored[0])


def test_not_before_its_time(tmp_path: Path) -> None:
    key = jax.random.key(0)
    checkpoints = Checkpoints(tmp_path / "checkpoint", 3600.0)
    for state in search_in_chunks(key, *ARGUMENTS, rounds_per_chunk=4):
        checkpoints.offer(state, 0.0)
    assert checkpoints.restore(lambda: shapes(key)) is None
    assert not (tmp_path / "checkpoint").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    key, folder = jax.random.key(0), tmp_path / "checkpoint"
    checkpoints = Checkpoints(folder, 0.0)
    checkpoints.save(next(search_in_chunks(key, *ARGUMENTS, rounds_per_chunk=1)), 0)
    checkpoints.wait()
    step = next(path for path in folder.iterdir() if path.name.isdigit())
    shutil.rmtree(step / "default")
    with pytest.raises(UserError, match="is damaged, or of another config: remove"):
        Checkpoints(folder, 0.0).restore(lambda: shapes(key))


def test_a_checkpoint_that_is_a_file_is_named(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.write_text("")
    key = jax.random.key(0)
    with pytest.raises(UserError, match="is no folder of checkpoints: remove it"):
        Checkpoints(folder, 0.0).restore(lambda: shapes(key))
