"""Grades that were given before, in memory or in a file that several searches share."""

from __future__ import annotations

import json
import os
import sqlite3
import threading

from jaxsearch.graders.types import Grade

_SECONDS = 30.0
"""How long one process waits for another that writes."""


class Cache:
    """Grades by key (`pictures.key_of`); failures are never kept.

    Args:
        path: of an SQLite file, which is made where there is none; None: in memory, for as long as
            this lives.

    Raises:
        ValueError: if it cannot be opened. The message names it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path, self._lock = os.fspath(path or ":memory:"), threading.Lock()
        try:
            self._file = sqlite3.connect(self._path, timeout=_SECONDS, check_same_thread=False)
            with self._file:
                self._file.execute(
                    "create table if not exists grades "
                    "(key text primary key, score real not null, details text not null)"
                )
        except sqlite3.Error as error:
            raise ValueError(f"cannot keep grades in {self._path}: {error}") from error

    def get(self, key: str) -> Grade | None:
        """The grade that is kept under a key, asked for 0 times; None where there is none."""
        with self._lock:
            row = self._file.execute(
                "select score, details from grades where key = ?", (key,)
            ).fetchone()
        return None if row is None else Grade(row[0], json.loads(row[1]), 0)

    def put(self, key: str, grade: Grade) -> None:
        """Keeps a grade, for good once this returns."""
        row = key, float(grade.score), json.dumps(dict(grade.details))
        with self._lock, self._file:
            self._file.execute("insert or replace into grades values (?, ?, ?)", row)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
