"""What is in a file, by its SHA-256."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any


def digest(path: Path) -> str:
    """The SHA-256 of a file, as the Hugging Face hub gives it too; read once while it is the same.

    Raises:
        OSError: if it cannot be read.
    """
    stat = path.stat()
    return _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, *state: Any) -> str:
    del state
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
