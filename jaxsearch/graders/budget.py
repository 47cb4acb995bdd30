"""What attempts may cost together, in one process or in several that share a file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from jaxsearch.graders.database import opened
from jaxsearch.graders.types import SpentError

_LOOK = 0.05  # seconds between two looks at what other processes have settled


class Standing(NamedTuple):
    """What there has been of attempts."""

    requests: int = 0  # those that are under way, too
    spent: float = 0.0  # in the unit of the price
    running: int = 0
    largest: float = 0.0  # cost of one; 0 until one is known
    blind: bool = False  # whether an answer did not say its tokens before any did


class Account(Protocol):
    """Where attempts are counted."""

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Has nobody else change it."""

    def standing(self) -> Standing:
        """What there has been; only while it is held."""

    def begin(self) -> int:
        """Notes an attempt that begins, and gives it a number; only while it is held."""

    def end(self, number: int, cost: float, known: float | None, blind: bool) -> None:
        """Notes what an attempt is charged and what it is known to have cost; while it is held."""


class Own(Account):
    """Attempts of this process, which are forgotten with it."""

    def __init__(self) -> None:
        self._standing = Standing()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else knows it."""
        yield

    def standing(self) -> Standing:
        """What there has been."""
        return self._standing

    def begin(self) -> int:
        """Notes an attempt that begins."""
        now = self._standing
        self._standing = now._replace(requests=now.requests + 1, running=now.running + 1)
        return now.requests

    def end(self, number: int, cost: float, known: float | None, blind: bool) -> None:
        """Notes what an attempt is charged."""
        now = self._standing
        self._standing = now._replace(
            spent=now.spent + cost,
            running=now.running - 1,
            largest=max(now.largest, known or 0.0),
            blind=now.blind or blind,
        )


class Shared(Account):
    """Attempts of all processes that know a file, whenever they were made.

    Args:
        path: of an SQLite file, which is made where there is none.
        name: of whom they are counted for.

    Raises:
        ValueError: if the file cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        self._path, self._name = os.fspath(path), name
        self._file: sqlite3.Connection | None = None
        with opened(self._path) as file:
            file.execute(
                "create table if not exists attempts (number integer primary key, "
                "grader text not null, cost real, known real, blind integer not null)"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Has no other process change it."""
        with opened(self._path) as file:
            self._file = file
            try:
                yield
            finally:
                self._file = None

    def standing(self) -> Standing:
        """What there has been."""
        assert self._file is not None
        ((requests, spent, running, largest, blind),) = self._file.execute(
            "select count(*), total(cost), count(*) - count(cost), coalesce(max(known), 0.0), "
            "coalesce(max(blind), 0) from attempts where grader = ?", (self._name,),
        )  # fmt: skip
        return Standing(requests, spent, running, largest, bool(blind))

    def begin(self) -> int:
        """Notes an attempt that begins."""
        assert self._file is not None
        made = self._file.execute(
            "insert into attempts (grader, blind) values (?, 0)", (self._name,)
        )
        assert made.lastrowid is not None
        return made.lastrowid

    def end(self, number: int, cost: float, known: float | None, blind: bool) -> None:
        """Notes what an attempt is charged."""
        assert self._file is not None
        self._file.execute(
            "update attempts set cost = ?, known = ?, blind = ? where number = ?",
            (cost, known, blind, number),
        )


def abandon(path: str | os.PathLike[str]) -> None:
    """Charges what was under way when processes were killed as much as the dearest of its grader.

    To be called while nobody asks.

    Raises:
        ValueError: if the file cannot be written.
    """
    if not os.path.exists(path):
        return
    with opened(os.fspath(path)) as file:
        if not list(file.execute("select 1 from sqlite_master where name = 'attempts'")):
            return
        file.execute(
            "update attempts set cost = (select coalesce(max(known), 0.0) from attempts as other "
            "where other.grader = attempts.grader) where cost is null"
        )


class Budget:
    """What attempts may cost together.

    Args:
        max_requests: the most attempts; None: any number.
        max_cost: the most that they cost; None: anything.
    """

    def __init__(self, max_requests: int | None, max_cost: float | None) -> None:
        self._max_requests, self._max_cost = max_requests, max_cost
        self._changed = threading.Condition()
        self._account: Account = Own()

    def share(self, account: Account) -> None:
        """Counts attempts there from now on."""
        self._account = account

    @property
    def standing(self) -> Standing:
        """What there has been of attempts."""
        with self._changed, self._account.held():
            return self._account.standing()

    def reserve(self) -> int:
        """Makes room for an attempt, once it is sure that there is some, and numbers it.

        Raises:
            SpentError: if there is none.
        """
        with self._changed:
            while True:
                with self._account.held():
                    if self._has_room(self._account.standing()):
                        return self._account.begin()
                self._changed.wait(_LOOK)

    def _has_room(self, now: Standing) -> bool:
        """Whether an attempt may be made now; not so while others may turn out too dear."""
        if self._max_requests is not None and now.requests >= self._max_requests:
            raise SpentError(f"the cap of {self._max_requests} requests is reached")
        if self._max_cost is None:
            return True
        if now.blind:
            raise SpentError("the server does not say its tokens (usage), so no cap can be kept")
        known = now.largest > 0
        if known and now.spent + (now.running + 1) * now.largest <= self._max_cost:
            return True
        if now.running:
            return False
        if known or now.spent >= self._max_cost:
            raise SpentError(f"the cap of {self._max_cost:g} on the cost is reached")
        return True  # the first, whose cost nobody knows

    def settle(self, number: int, cost: float | None, answered: bool) -> float:
        """Notes what an attempt has cost; None where nobody knows, be it that it was answered.

        Returns what it is taken to have cost.
        """
        with self._changed:
            with self._account.held():
                largest = max(self._account.standing().largest, cost or 0.0)
                charged = largest if cost is None else cost
                blind = answered and cost is None and not largest
                self._account.end(number, charged, cost, blind)
            self._changed.notify_all()
            return charged
