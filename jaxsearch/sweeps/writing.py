"""Results on their way to the disk while the device goes on searching."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Writer:
    """A thread that carries out tasks in their order, few of them waiting.

    Args:
        waiting: the most tasks that wait; whoever gives another one waits too.
    """

    def __init__(self, waiting: int = 2) -> None:
        self._tasks: queue.Queue[Callable[[], Any] | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is None:
                try:
                    task()
                except BaseException as error:  # for the thread that gave the task
                    self._error = error

    def __call__(self, task: Callable[[], Any]) -> None:
        """Has a task carried out; raises what an earlier one has raised."""
        self.check()
        self._tasks.put(task)

    def check(self) -> None:
        """Raises what a task has raised."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._tasks.put(None)
        self._thread.join()
        if kind is None:
            self.check()
