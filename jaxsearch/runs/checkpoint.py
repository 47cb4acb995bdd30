"""A search between two rounds on disk, by orbax."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxsearch.core.random import KEY_KIND
from jaxsearch.core.types import PyTree, SearchState
from jaxsearch.runs.errors import UserError


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def pack(tree: PyTree) -> PyTree:
    """The tree with its PRNG keys as plain integers, which is what orbax can store."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def unpack(packed: PyTree, like: PyTree) -> PyTree:
    """The tree that was packed.

    Args:
        packed: what `pack` made of it.
        like: a tree of its structure, shapes and types.
    """

    def one(leaf: Any, model: Any) -> Any:
        if not _is_key(model):
            return jnp.asarray(leaf)
        return jax.random.wrap_key_data(jnp.asarray(leaf), impl=KEY_KIND)

    return jax.tree.map(one, packed, like)


class Checkpoints:
    """The newest state of a search in a folder.

    A checkpoint becomes visible as a whole, before the one it replaces is removed.

    Args:
        folder: made on the first save.
        seconds: the least time between two saves, and before the first.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder.absolute()
        self._seconds = seconds
        self._last = time.monotonic()
        self._manager: Any = None

    def _open(self) -> Any:
        if self._manager is None:
            logging.getLogger("absl").setLevel(logging.ERROR)
            from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions

            options = CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True)
            self._manager = CheckpointManager(self._folder, options=options)
        return self._manager

    def offer(self, state: SearchState, seconds_spent: float) -> None:
        """Saves a state if the last save is long enough ago."""
        if time.monotonic() - self._last >= self._seconds:
            self.save(state, seconds_spent)

    def save(self, state: SearchState, seconds_spent: float) -> None:
        """Saves a state; writing goes on in the background."""
        from orbax.checkpoint import args

        manager, step = self._open(), int(state.round)
        if step in manager.all_steps():
            return
        content = {"state": pack(state), "seconds": jnp.float32(seconds_spent)}
        manager.save(step, args=args.StandardSave(content))
        self._last = time.monotonic()

    def restore(self, shapes: Callable[[], SearchState]) -> tuple[SearchState, float] | None:
        """The newest state and the seconds spent on it; `None` where there is none.

        Args:
            shapes: those of a state of the search, asked for if there is one.

        Raises:
            UserError: if it cannot be read, or is of another search.
        """
        if not self._folder.exists():
            return None
        if not self._folder.is_dir():
            raise UserError(
                f"{self._folder} is no folder of checkpoints: remove it to start this run again "
                "from the beginning"
            )
        from orbax.checkpoint import args

        manager = self._open()
        step = manager.latest_step()
        if step is None:
            return None
        like = shapes()
        packed = jax.eval_shape(pack, like)
        content = {"state": packed, "seconds": jax.ShapeDtypeStruct((), jnp.float32)}
        try:
            found = manager.restore(step, args=args.StandardRestore(content))
        except Exception as error:  # orbax raises many kinds for a damaged folder
            raise UserError(
                f"the checkpoint {self._folder / str(step)} is damaged, or of another config: "
                f"remove {self._folder} to start this run again from the beginning"
            ) from error
        return unpack(found["state"], like), float(found["seconds"])

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        manager = self._manager  # another thread may be removing it
        if manager is not None:
            manager.wait_until_finished()

    def remove(self) -> None:
        """Removes the folder: the search is done."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        shutil.rmtree(self._folder, ignore_errors=True)
