"""Pairs of neighbouring segments of documents, for next-sentence prediction.

document    s₁ s₂ s₃ s₄ s₅ s₆ s₇        sentences, a record each
segments    [s₁ s₂] [s₃] [s₄ s₅ s₆] [s₇]
pairs       ([s₁ s₂], [s₃])  ([s₄ s₅ s₆], [s₇])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ciyuan.data.blocks import Ids, documents
from ciyuan.data.store import TokenStore
from ciyuan.errors import DataError

MARKERS = 3
"""[CLS] a [SEP] b [SEP]"""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of sentences: (T,) ids without markers. words: (T,) 1 where a token begins a word, where the store knows."""

    tokens: Ids
    words: Ids | None = None


Others = Callable[[int], Segment]
"""The second segment of the k-th pair of another document; any k ≥ 0 is allowed, counted around."""


class SentencePairs:
    """Examples (a, b, others): a run of sentences, the run that follows it, and what could stand in b's place.

    store: columns "text" and "document", and "words" if there are any, a sentence a record, as `prepare(…, sentences=True)` makes
    it. A run is whole sentences of at most (width − 3) / 2 tokens together; only a longer sentence is cut, and a document of a
    single run is parted in two. Where a document has an odd number of runs, the last but one is also the first of the last.
    What others gives has been cut in the same way, so that neither length nor place tells it from b; draw k uniformly from a
    large range.
    Raises DataError where there are fewer than two documents with a pair.
    """

    def __init__(self, store: TokenStore, *, width: int) -> None:
        half = (width - MARKERS) // 2
        if half < 1:
            raise ValueError(f"a width of {width} holds no two sentences")
        self.store, self.width = store, width
        pairs: list[tuple[int, int, int]] = []  # where a begins, where b begins, where b ends
        owners: list[int] = []
        offsets, borders = store["text"].offsets, documents(store)
        for number, (start, end) in enumerate(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)):
            ends = offsets[np.searchsorted(offsets, start, "right") : np.searchsorted(offsets, end, "right")]
            found = _pairs(start, ends.tolist(), half)
            pairs += found
            owners += [number] * len(found)
        self._pairs = np.array(pairs, dtype=np.int64).reshape(-1, 3)
        self._owners = np.array(owners, dtype=np.int64)
        if not len(pairs) or self._owners[0] == self._owners[-1]:
            raise DataError("next-sentence prediction needs two documents or more",
                            allowed="a blank line parts documents in .txt; elsewhere each record is one")  # fmt: skip

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each pair, without markers."""
        return np.asarray(self._pairs[:, 2] - self._pairs[:, 0])

    def examples(self, index: Iterable[int]) -> list[tuple[Segment, Segment, Others]]:
        """The pairs that `index` names, in its order."""
        found = []
        for i in index:
            a, b, end = self._pairs[i].tolist()
            found.append((self._segment(a, b), self._segment(b, end), self._others(int(i))))
        return found

    def _segment(self, start: int, end: int) -> Segment:
        words = self.store["words"].tokens[start:end] if "words" in self.store.columns else None
        return Segment(self.store["text"].tokens[start:end], words)

    def _others(self, number: int) -> Others:
        own = self._owners[number]
        first, last = (int(np.searchsorted(self._owners, own, side)) for side in ("left", "right"))

        def other(k: int) -> Segment:
            place = k % (len(self._pairs) - (last - first))
            _, b, end = self._pairs[place if place < first else place + last - first].tolist()
            return self._segment(b, end)

        return other


def _pairs(start: int, ends: list[int], half: int) -> list[tuple[int, int, int]]:
    """The pairs of a document whose sentences end at these places: (start of a, start of b, end of b)."""
    borders = [start]  # of segments
    reach = start  # the last sentence's end that is not yet a border
    for end in ends:
        if end - borders[-1] > half and reach > borders[-1]:
            borders.append(reach)
        begin, size = borders[-1], end - borders[-1]
        parts = -(-size // half)  # more than one of a sentence that is too long alone
        borders += [begin + size * part // parts for part in range(1, parts)]
        reach = end
    if reach > borders[-1]:
        borders.append(reach)
    n = len(borders) - 1
    if n == 1 and borders[1] - borders[0] > 1:
        middle = (borders[0] + borders[1]) // 2
        inner = [end for end in ends if borders[0] < end < borders[1]]
        return [(borders[0], min(inner, key=lambda end: abs(end - middle), default=middle), borders[1])]
    begins = [*range(0, n - 1, 2), *([n - 2] if n % 2 and n > 1 else [])]
    return [(borders[i], borders[i + 1], borders[i + 2]) for i in begins]
