"""Grades that were given before, in memory and in a file that several searches share."""

from __future__ import annotations

import json
import os

from jaxsearch.graders.database import opened
from jaxsearch.graders.types import Grade


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
            with opened(self._path) as file:
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
            with opened(self._path) as file:
                found = file.execute("select score, details from grades where key = ?", (key,))
                for score, details in found:
                    self._kept[key] = Grade(score, json.loads(details), 0)
        return self._kept.get(key)

    def put(self, key: str, grade: Grade) -> Grade:
        """Keeps a grade, unless another process was first; in the file once this returns.

        Returns:
            The one that is kept: a question has one answer, however many have asked it at once.

        Raises:
            ValueError: if the file cannot be written any more.
        """
        if self._path is not None:
            row = key, float(grade.score), json.dumps(dict(grade.details))
            with opened(self._path) as file:
                file.execute("insert or ignore into grades values (?, ?, ?)", row)
            self._kept.pop(key, None)
            kept = self.get(key)
            assert kept is not None
            return kept
        return self._kept.setdefault(key, grade._replace(attempts=0, cost=0.0))
