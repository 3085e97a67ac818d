from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ciyuan.data import Prefetch
from ciyuan.errors import CiyuanError


def threads() -> int:
    return sum(thread.name == "ciyuan-prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_everything_comes_in_order_and_the_thread_ends(depth: int) -> None:
    assert list(Prefetch(range(50), depth=depth)) == list(range(50))
    assert threads() == 0


def test_it_works_ahead_but_not_further_than_its_depth() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in itertools.count():
            made.append(i)
            yield i

    with Prefetch(items(), depth=3) as ahead:
        assert next(ahead) == 0
        time.sleep(0.05)
        assert 3 <= len(made) <= 5
    assert threads() == 0


def test_an_exception_reaches_the_consumer_after_what_came_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    ahead = Prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="lost"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


def test_an_exit_in_the_thread_is_not_swallowed() -> None:
    def items() -> Iterator[int]:
        raise SystemExit(3)
        yield

    with pytest.raises(SystemExit):
        next(Prefetch(items()))


def test_a_thread_that_died_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(self: Any, items: Any) -> None:
        self._put(next(iter(items)), None)

    monkeypatch.setattr(Prefetch, "_work", work)
    ahead = Prefetch([7, 8])
    assert next(ahead) == 7
    with pytest.raises(CiyuanError, match="died without a word"):
        next(ahead)


def test_leaving_stops_an_endless_thread() -> None:
    with Prefetch(itertools.count(), depth=2) as ahead:
        next(ahead)
    assert threads() == 0
    with pytest.raises(StopIteration):
        next(ahead)
