"""A model behind an OpenAI-compatible HTTP endpoint, asked with patience and within a budget."""

from __future__ import annotations

import dataclasses
import http.client
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from jaxsearch.core.checks import check_count, check_range
from jaxsearch.graders.budget import Budget, Shared
from jaxsearch.graders.types import GradingError, SpentError

Answer = TypeVar("Answer")

_LATER = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""States of HTTP after which the same question may be answered."""
_LARGEST = 16 * 2**20  # bytes of an answer
_LONGEST_WAIT = 60.0  # seconds between two attempts, whatever the server asks for
_SHOWN = 200  # characters of a server's complaint


class UnusableError(Exception):
    """An answer that says nothing; another attempt may."""


class Answered(NamedTuple, Generic[Answer]):
    """What a question has led to."""

    answer: Answer
    attempts: int
    cost: float  # of all of them, in the unit of the price


class _LaterError(Exception):
    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclasses.dataclass(kw_only=True)
class Client:
    """Asks a model questions about images; may be used from several threads at once.

    Attributes:
        url: of the interface, such as `"http://localhost:8000/v1"`.
        model: its name there.
        api_key: sent as a bearer token; not shown and not kept anywhere.
        timeout: seconds that one attempt may take, from connecting to the last byte.
        retries: further attempts after one that failed in a way that may pass: no connection, no
            answer in time, an answer that is cut off or says nothing, a busy or broken server.
        backoff: seconds before the first further attempt; twice as many before each one more. A
            server that says when to come back (`Retry-After`) is obeyed, up to a minute.
        max_requests: the most attempts of this client's life, or of all that share its account;
            None: any number.
        max_cost: the most that they may cost together, in the unit of `price`; None: anything. An
            attempt is made only if it stays within this at the highest cost that one has had so
            far, which is also what an attempt without an answer is taken to have cost. Until the
            first is known they are made one at a time.
        price: of a million tokens of questions, and of answers.

    Raises:
        ValueError: if a number is out of its range, the URL is none, or there is a cap on the cost
            and no price.
    """

    url: str
    model: str
    api_key: str = dataclasses.field(default="", repr=False)
    timeout: float = 60.0
    retries: int = 3
    backoff: float = 1.0
    max_requests: int | None = None
    max_cost: float | None = None
    price: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"url has no port that could be: {error}") from error
        if not (self.url.isascii() and self.url.isprintable() and " " not in self.url):
            raise ValueError("url has a character that cannot be sent: escape it by %")
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError(f"url is {self.url!r}: it must begin with http:// or https://")
        if parts.username is not None or parts.query or parts.fragment:  # perhaps a secret
            raise ValueError("url has a user, a query or a fragment: none of them is sent")
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("api_key has a character that cannot be sent")
        if not self.model:
            raise ValueError("model is empty: name the one that the server should ask")
        check_range("timeout", self.timeout, 0.0, open_low=True)
        check_count("retries", self.retries, 0)
        check_range("backoff", self.backoff, 0.0)
        if len(self.price) != 2:
            raise ValueError(f"price is {self.price}: it must be two numbers")
        for one in self.price:
            check_range("price", one, 0.0)
        if self.max_requests is not None:
            check_count("max_requests", self.max_requests, 0)
        if self.max_cost is not None:
            check_range("max_cost", self.max_cost, 0.0)
            if not any(self.price):
                raise ValueError(
                    "max_cost needs the price of a million tokens: give price=(.., ..)"
                )
        self._budget = Budget(self.max_requests, self.max_cost)

    @property
    def requests(self) -> int:
        """How many attempts there have been."""
        return self._budget.standing.requests

    @property
    def cost(self) -> float:
        """What they have cost, in the unit of `price`."""
        return self._budget.standing.spent

    def ask(
        self,
        question: str,
        image_url: str,
        read: Callable[[Mapping[str, Any]], Answer],
        **options: Any,
    ) -> Answered[Answer]:
        """Asks about an image until the answer can be read.

        Args:
            question: what is asked.
            image_url: of the image; may hold it (`data:`).
            read: `choice -> answer`, of the first entry of the response's `choices`; raises
                `UnusableError` where it says nothing.
            options: of the request.

        Returns:
            What was read, how many attempts that took and what they have cost.

        Raises:
            GradingError: if all attempts failed, or one failed for good.
            SpentError: if a cap is reached.
        """
        picture = {"type": "image_url", "image_url": {"url": image_url}}
        content = [picture, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"model": self.model, "messages": messages, **options}).encode()
        reason = ""
        bill: list[float] = []
        for attempt in range(1, self.retries + 2):
            try:
                answer = self._attempt(body, read, attempt, bill)
                return Answered(answer, attempt, math.fsum(bill))
            except GradingError as error:
                error.cost = math.fsum(bill)
                raise
            except _LaterError as error:
                reason, wait = str(error), error.wait
            if attempt <= self.retries:
                time.sleep(min(max(wait, self.backoff * 2 ** (attempt - 1)), _LONGEST_WAIT))
        raise GradingError(reason, self.retries + 1, math.fsum(bill))

    def check_reachable(self) -> None:
        """Connects to the server and asks it nothing.

        Raises:
            ValueError: if there is no connection.
        """
        connection = self._connection()
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"nobody answers at {self.url} ({error})") from error
        finally:
            connection.close()

    def share_account(self, path: str | os.PathLike[str], name: str) -> None:
        """Counts attempts in a file, so that caps are those of all that count there.

        Args:
            path: of an SQLite file, such as the one in which a panel keeps grades.
            name: under which they are counted together, such as the grader's.

        Raises:
            ValueError: if the file cannot be opened.
        """
        self._budget.share(Shared(path, name))

    def _attempt(
        self,
        body: bytes,
        read: Callable[[Mapping[str, Any]], Answer],
        attempt: int,
        bill: list[float],
    ) -> Answer:
        try:
            number = self._budget.reserve()
        except SpentError as error:
            error.attempts = attempt - 1
            raise
        cost, answered = None, False
        try:
            response = self._response(body, attempt)
            cost, answered = self._cost_of(response), True
            choices = response.get("choices")
            if not isinstance(choices, Sequence) or not choices or not _is_mapping(choices[0]):
                raise UnusableError("the response has no choices")
            if choices[0].get("finish_reason") == "content_filter":
                raise GradingError("the server's filter has taken the answer away", attempt)
            return read(choices[0])
        except UnusableError as error:
            raise _LaterError(str(error)) from error
        finally:
            bill.append(self._budget.settle(number, cost, answered))

    def _cost_of(self, response: Mapping[str, Any]) -> float | None:
        """What a response has cost; None where it does not say."""
        usage = response.get("usage")
        if not isinstance(usage, Mapping):
            return None
        cost = 0.0
        names = ("prompt_tokens", "completion_tokens")
        for name, price in zip(names, self.price, strict=True):
            tokens = usage.get(name)
            if type(tokens) is not int or tokens < 0:
                return None
            cost += tokens * price / 1e6
        return cost

    def _response(self, body: bytes, attempt: int) -> Mapping[str, Any]:
        status, wait, data = self._post(body)
        if status != 200:
            said = " ".join(data[: 4 * _SHOWN].decode("utf-8", "replace").split())
            if self.api_key:  # some say it
                said = said.replace(self.api_key, "...")
            said = said[:_SHOWN]
            reason = f"the server answers {status}" + (f": {said}" if said else "")
            if status in _LATER:
                raise _LaterError(reason, wait)
            raise GradingError(reason, attempt)
        try:
            response = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _LaterError(f"the response is no JSON ({error})") from error
        if not _is_mapping(response):
            raise _LaterError("the response holds no entries")
        return response

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        assert parts.hostname is not None
        return kind(parts.hostname, parts.port, timeout=self.timeout)

    def _post(self, body: bytes) -> tuple[int, float, bytes]:
        """Status, seconds to wait, and body of the response, all of it within the timeout."""
        connection = self._connection()
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        deadline = time.monotonic() + self.timeout
        watch: threading.Timer | None = None
        try:
            connection.connect()
            # A server that sends a byte now and then would outlast any timeout of a socket.
            left = max(deadline - time.monotonic(), 0.0)
            watch = threading.Timer(left, _hang_up, [connection.sock])
            watch.daemon = True
            watch.start()
            path = urlsplit(self.url).path.rstrip("/") + "/chat/completions"
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            data = response.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise _LaterError(f"the response is longer than {_LARGEST} bytes")
            if response.length:
                raise http.client.IncompleteRead(data, response.length)
            return response.status, _seconds(response.headers.get("Retry-After")), data
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise _LaterError(f"no answer within {self.timeout:g} s") from error
            if isinstance(error, http.client.IncompleteRead):
                raise _LaterError("the response is cut off") from error
            raise _LaterError(f"no connection: {error or type(error).__name__}") from error
        finally:
            if watch is not None:
                watch.cancel()
            connection.close()


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _hang_up(connected: socket.socket) -> None:
    try:
        # Not that of an encrypted one, which would take its state from under whoever reads.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


def _seconds(text: str | None) -> float:
    """What `Retry-After` asks for, where it is a number of seconds."""
    try:
        found = float(text or 0.0)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) and found > 0 else 0.0
