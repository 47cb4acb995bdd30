"""What a user is told when something cannot be done: one line, with the remedy."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Something that the user can put right; the message says how, in one line."""


def unknown(complaint: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among the known ones, with those that are nearest to it.

    Args:
        complaint: what is wrong with the name, which follows: "unknown searcher".
        name: as it was given.
        known: what it could have been.
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return UserError(f"{complaint} {name!r}: did you mean {' or '.join(near)}?")
    return UserError(f"{complaint} {name!r}: there is {', '.join(known) or 'none'}")


def bytes_text(number: int) -> str:
    """A number of bytes for people."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:,.4g} {unit}" if size < 1e6 else f"{size:,.0f} {unit}"


@contextlib.contextmanager
def explained(subject: str) -> Iterator[None]:
    """Makes a `ValueError` of the library the user's; `subject` is whose settings are at fault."""
    try:
        yield
    except ValueError as error:
        message = " ".join(str(error).split())
        raise UserError(message if subject in message else f"{subject}: {message}") from error
