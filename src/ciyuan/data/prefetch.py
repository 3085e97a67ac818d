"""Make batches ahead of time, in a thread, so that the model does not wait for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

from ciyuan.errors import CiyuanError

T = TypeVar("T")


class Prefetch(Generic[T]):
    """What `items` gives, in the same order, made up to `depth` ahead by one thread.

    An exception of the thread is raised where the item was awaited; a thread that vanished is noticed. A context
    manager: leaving it stops the thread.
    """

    def __init__(self, items: Iterable[T], *, depth: int = 4) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=max(1, depth))
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, args=(items,), name="ciyuan-prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._ended:
            raise StopIteration
        while True:
            alive = self._thread.is_alive()  # asked before looking: what it put down before it died is still taken
            try:
                item, error = self._queue.get(timeout=0.2 if alive else 0)
            except queue.Empty:
                if alive:
                    continue
                self._ended = True
                raise CiyuanError("the thread that makes batches died without a word") from None
            if error is not None:
                self.close()
                if isinstance(error, _End):
                    raise StopIteration
                raise error
            return item  # type: ignore[return-value]

    def close(self) -> None:
        """Stop the thread; what it made ahead is dropped."""
        self._ended = True
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def __enter__(self) -> Prefetch[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _work(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                if not self._put(item, None):
                    return
            self._put(None, _End())
        except BaseException as error:  # noqa: BLE001 (SystemExit too must reach whoever waits)
            self._put(None, error)

    def _put(self, item: T | None, error: BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


class _End(Exception):  # noqa: N818  (no error: the end)
    """Nothing more to come."""
