"""Files that are there as a whole or not at all, and folders that have one owner."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxsearch.runs.errors import UserError

_PARTIAL = ".partial"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes a file that no reader and no power cut ever sees half of.

    The content goes to a temporary file beside it, `.<name>.<random>.partial`, and to the disk
    before that file takes the name.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes JSON for people and programs."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The mapping that `write_json` wrote.

    Raises:
        UserError: if it cannot be read or is damaged.
    """
    text = read_text(path, what)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: it is not valid JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no entries")
    return value


def remove_partial(folder: Path) -> None:
    """Removes what a killed writer left behind."""
    for path in folder.rglob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Holds a folder against other processes; the system lets go of it when this process ends.

    Raises:
        UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder} is in use: another run is writing to it") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def read_text(path: Path, what: str) -> str:
    """The text of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"cannot read {what} {path}: {reason.lower()}") from error
