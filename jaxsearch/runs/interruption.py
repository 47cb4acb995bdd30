"""Ctrl-C and SIGTERM as a question that a run answers between two rounds, and not within one."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from typing import Any

from rich.console import Console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO_SECONDS = 2.0
"""A SIGTERM so soon after a signal is the same one, sent to a process and to its whole group."""


def status_of(number: int) -> int:
    """The exit status that shells give to a process which a signal has ended."""
    return 128 + number


class Interruption:
    """While it is entered, the first signal only sets `wanted`; the second ends the process.

    The signals are Ctrl-C's and SIGTERM, which schedulers send before they take a machine away. An
    exception thrown into a program under way would leave the device working while the interpreter
    goes down, which can crash it. A thread listens, since the main one hears nothing while it
    compiles or waits for the device. Outside the main thread nothing is caught.

    Args:
        console: told that the first one has been heard.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: dict[int, Any] = {}
        self.wanted = 0
        """The number of the signal that was heard; 0 before."""

    def _listen(self, pipe: int) -> None:
        told = -math.inf
        with os.fdopen(pipe, "rb", buffering=0) as signals:
            while heard := signals.read(1):
                if heard[0] not in _SIGNALS:
                    continue
                if heard[0] == signal.SIGTERM and time.monotonic() - told < _ECHO_SECONDS:
                    continue
                if self.wanted:
                    self._console.show_cursor(True)
                    # Files are whole or not there, so none is left in pieces.
                    os._exit(status_of(heard[0]))
                self.wanted, told = heard[0], time.monotonic()
                self._console.print("stopping after this round; Ctrl-C again stops at once")

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._before = {
                number: signal.signal(number, lambda number, frame: None) for number in _SIGNALS
            }
            self._wakeup = signal.set_wakeup_fd(self._writer)
            threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._writer)  # ends the thread
            self._before = {}
