"""Ctrl-C as a question that a run answers between two rounds, and not in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from rich.console import Console


class Interruption:
    """While it is entered, the first Ctrl-C only sets `wanted`; the second ends the process.

    An exception thrown into a program under way would leave the device working while the
    interpreter goes down, which can crash it. A thread listens, since the main one hears nothing
    while it compiles or waits for the device. Outside the main thread nothing is caught.

    Args:
        console: told that the first one has been heard.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._before: Any = None
        self.wanted = False

    def _listen(self, pipe: int) -> None:
        with os.fdopen(pipe, "rb", buffering=0) as signals:
            while heard := signals.read(1):
                if heard[0] != signal.SIGINT:
                    continue
                if self.wanted:
                    self._console.show_cursor(True)
                    os._exit(130)  # files are whole or not there, so none is left in pieces
                self.wanted = True
                self._console.print("stopping after this round; Ctrl-C again stops at once")

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._before = signal.signal(signal.SIGINT, lambda number, frame: None)
            self._wakeup = signal.set_wakeup_fd(self._writer)
            threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._wakeup)
            signal.signal(signal.SIGINT, self._before)
            os.close(self._writer)  # ends the thread
            self._before = None
