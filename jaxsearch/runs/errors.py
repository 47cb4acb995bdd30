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


@contextlib.contextmanager
def explained(subject: str) -> Iterator[None]:
    """Makes a `ValueError` of the library the user's; `subject` is whose settings are at fault."""
    try:
        yield
    except ValueError as error:
        message = " ".join(str(error).split())
        raise UserError(message if subject in message else f"{subject}: {message}") from error
