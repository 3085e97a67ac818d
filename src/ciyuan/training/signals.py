"""SIGTERM and SIGINT while training: finish the step, save, leave; a second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any


class Interrupted(BaseException):
    """Raised out of what `Signals.may_interrupt` surrounds. Not an Exception: whoever catches all of those lets it through."""


class Signals:
    """A context manager that takes both signals over and gives them back. In another thread than the main one it does nothing."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._interrupts = False
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return signal.Signals(self.received).name if self.received is not None else "another rank"

    @contextlib.contextmanager
    def may_interrupt(self) -> Iterator[None]:
        """Around work that takes long and can be begun again: a signal raises Interrupted in it, at once."""
        self._interrupts = True
        try:
            if self.received is not None:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        if self._interrupts:
            self._interrupts = False
            raise Interrupted
