"""Grades that were given before, in memory and in a file that several searches share."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator

from jaxsearch.graders.types import Grade

_SECONDS = 30.0
"""How long one process waits for another that writes."""


class Cache:
    """Grades by key (`pictures.key_of`); failures are never kept.

    Args:
        path: of an SQLite file, which is made where there is none; None: in memory alone, for as
            long as this lives.

    Raises:
        ValueError: if it cannot be opened. The message names it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = None if path is None else os.fspath(path)
        self._kept: dict[str, Grade] = {}
        if self._path is not None:
            with self._file() as file:
                file.execute(
                    "create table if not exists grades "
                    "(key text primary key, score real not null, details text not null)"
                )

    def get(self, key: str) -> Grade | None:
        """The grade that is kept under a key, asked for 0 times; None where there is none.

        Raises:
            ValueError: if the file cannot be read any more.
        """
        if key not in self._kept and self._path is not None:
            with self._file() as file:
                found = file.execute("select score, details from grades where key = ?", (key,))
                for score, details in found:
                    self._kept[key] = Grade(score, json.loads(details), 0)
        return self._kept.get(key)

    def put(self, key: str, grade: Grade) -> None:
        """Keeps a grade; in the file, where there is one, once this returns.

        Raises:
            ValueError: if the file cannot be written any more.
        """
        self._kept[key] = grade._replace(attempts=0, cost=0.0)
        if self._path is not None:
            row = key, float(grade.score), json.dumps(dict(grade.details))
            with self._file() as file:
                file.execute("insert or replace into grades values (?, ?, ?)", row)

    @contextlib.contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        """The file, open for one transaction."""
        assert self._path is not None
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=_SECONDS)) as file, file:
                yield file
        except sqlite3.Error as error:
            raise ValueError(f"cannot keep grades in {self._path}: {error}") from error
