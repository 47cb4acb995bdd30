"""The SQLite file in which graders keep things that several processes share."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

_SECONDS = 30.0
"""How long one process waits for another that writes."""


@contextlib.contextmanager
def opened(path: str) -> Iterator[sqlite3.Connection]:
    """The file, made where there is none, open for one transaction that nobody else writes in.

    Raises:
        ValueError: if it cannot be read or written.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(path, timeout=_SECONDS, isolation_level=None)
        ) as file:
            file.execute("begin immediate")
            try:
                yield file
            except BaseException:
                file.execute("rollback")
                raise
            file.execute("commit")
    except sqlite3.Error as error:
        raise ValueError(f"cannot keep grades in {path}: {error}") from error
