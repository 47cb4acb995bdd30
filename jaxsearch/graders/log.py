"""What graders have said, line by line in a file that survives being killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any


class Log:
    """A file of JSON lines to which is added; a last line that was cut off by a kill is taken away.

    Args:
        path: of the file, which is made where there is none.

    Raises:
        ValueError: if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        try:
            with open(self._path, "a+b") as file:
                file.seek(0)
                end = 0
                for line in file:
                    end += len(line) if line.endswith(b"\n") else 0
                file.truncate(end)
        except OSError as error:
            raise ValueError(f"cannot write {self._path}: {error.strerror}") from error

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds a line; it is in the file once this returns."""
        # Half of a surrogate pair, which a shell may make of what is no UTF-8, stays escaped.
        with open(self._path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines, those of other processes too.

        Raises:
            ValueError: if one is none.
        """
        with open(self._path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                    line["grader"], line["attempts"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{self._path} is damaged at line {number}") from error
                yield line
