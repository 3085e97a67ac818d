"""Running text in rows of one width: documents cut into blocks, blocks packed into lines, lines gathered into batches.

document 1   xxxxxxxxxxxxx        blocks   xxxxxxx| xxxxxx        line 1   xxxxxxx
document 2   yyy                           yyy                    line 2   xxxxxx
document 3   zz                            zz                     line 3   yyy zz
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciyuan.data.loader import Padding, random_order
from ciyuan.data.store import TokenStore
from ciyuan.errors import DataError

Ids = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document that stands in one row: (T,) ids without markers, a view of the store.

    starts, ends: whether the document begins and ends here. before: the token that comes before it, None where it starts.
    words: (T,) 1 where a token begins a word, where the store knows.
    """

    tokens: Ids
    starts: bool
    ends: bool
    before: int | None = None
    words: Ids | None = None


class PackedLoader:
    """Batches of lines, each of several blocks of at most `width` tokens together; each line once an epoch.

    store: columns "text" and "document", and "words" if there are any; neighbouring records of one document are one text.
    width: tokens of a line, of which each block takes its own and `extra` (2: the markers at its head and tail). A batch has
    batch_tokens // width lines, at least one; the last of an epoch may have fewer. Which blocks share a line stays the same;
    the order of the lines is drawn for each epoch, one for all ranks, of whose batches rank r of `world` gets lines r, r + world, …
    Example numbers are those of lines. With shuffle=False they come in their order, and nothing is random.
    """

    def __init__(
        self, store: TokenStore, *, width: int, batch_tokens: int, seed: int = 0, rank: int = 0, world: int = 1,
        shuffle: bool = True, extra: int = 2,
    ) -> None:  # fmt: skip
        if width <= extra or batch_tokens < 1 or not 0 <= rank < world:
            raise ValueError(f"width {width}, batch_tokens {batch_tokens} and rank {rank} of {world} make no batches")
        self.store, self.width, self.seed, self.rank, self.world = store, width, seed, rank, world
        self.batch_tokens, self.shuffle, self.extra = batch_tokens, shuffle, extra
        self.rows = max(1, batch_tokens // width)
        self._first, self._last, self._documents = _blocks(documents(store), width - extra)
        if not len(self._first):
            raise DataError("there is no text to make rows of")
        self._members, self._lines = _packed(self._last - self._first + extra, width)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        return (self.n_examples + self.rows - 1) // self.rows

    @property
    def n_examples(self) -> int:
        """Lines."""
        return len(self._lines) - 1

    @property
    def n_blocks(self) -> int:
        return len(self._first)

    @property
    def oversized(self) -> int:
        return 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the order: equal fingerprints, equal batches. Ranks do not count."""
        decisive = f"blocks 1 {self.width} {self.rows} {self.seed} {self.shuffle} {self.extra}".encode()
        for column in (self._first, self._last, self._members, self._lines):
            decisive += hashlib.sha256(column.astype("<i8").tobytes()).digest()
        return hashlib.sha256(decisive).hexdigest()

    def steps_per_epoch(self, epoch: int = 0) -> int:
        return len(self)

    def at(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Epoch and this rank's line numbers at a step, counted from 0 over all epochs."""
        epoch, batch = self.global_at(step)
        return epoch, batch[self.rank :: self.world]

    def global_at(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Epoch and the line numbers of all ranks at a step."""
        epoch, position = divmod(step, len(self))
        return epoch, self._order(epoch)[position * self.rows : (position + 1) * self.rows]

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """This rank's part of every batch of an epoch."""
        first = epoch * len(self)
        return [self.at(step)[1] for step in range(first, first + len(self))]

    def from_step(self, step: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """(step, epoch, line numbers), without end, from a step on."""
        while True:
            yield step, *self.at(step)
            step += 1

    def examples(self, index: Iterable[int]) -> list[tuple[Block, ...]]:
        """The blocks of each line that `index` names, in its order: what an objective collates."""
        return [tuple(self._block(int(b)) for b in self._members[self._lines[i] : self._lines[i + 1]]) for i in index]

    def padding(self) -> Padding:
        """Of lines filled to the width, as they are where their batch holds a full one."""
        used = int((self._last - self._first).sum()) + self.extra * self.n_blocks
        share = 1 - used / (self.n_examples * self.width)
        return Padding(
            widest=share, all_sides=share, batches=len(self), mean_cost=self.n_examples * self.width / len(self),
            max_cost=min(self.rows, self.n_examples) * self.width,
        )  # fmt: skip

    def _block(self, number: int) -> Block:
        first, last = int(self._first[number]), int(self._last[number])
        document = self._documents[number]
        starts = number == 0 or self._documents[number - 1] != document
        ends = number + 1 == self.n_blocks or self._documents[number + 1] != document
        tokens = self.store["text"].tokens
        words = self.store["words"].tokens[first:last] if "words" in self.store.columns else None
        return Block(tokens[first:last], starts, ends, None if starts else int(tokens[first - 1]), words)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.n_examples)
        order = self._orders.get(epoch)
        if order is None:
            while len(self._orders) > 1:
                del self._orders[min(self._orders)]
            order = self._orders[epoch] = random_order(self.n_examples, self.seed, epoch)
        return order


def documents(store: TokenStore) -> NDArray[np.int64]:
    """(n + 1,) the places in the store's tokens where documents begin, and where the last one ends.

    Neighbouring records with the same number are one document, whose tokens so stand side by side.
    """
    numbers, offsets = store["document"].tokens, store["text"].offsets
    begins = np.flatnonzero(np.concatenate([[True], numbers[1:] != numbers[:-1]])[: len(numbers)])
    return np.concatenate([offsets[:-1][begins], offsets[-1:]]).astype(np.int64)


def _blocks(
    borders: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First token, end, and document of each block (n_blocks,): full ones, then what is left, at least two tokens if it can be."""
    sizes = np.diff(borders)
    counts = -(-sizes // room)  # documents without a token have no block
    number = np.repeat(np.arange(len(sizes)), counts)
    place = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)  # of the block in its document
    first = borders[:-1][number] + place * room
    last = np.minimum(first + room, borders[1:][number])
    if room > 2:
        lone = np.flatnonzero((last - first == 1) & (place > 0))
        first[lone] -= 1
        last[lone - 1] -= 1
    return first, last, number


def _packed(sizes: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which items share a line: their numbers line after line (n,), and where each line begins (n_lines + 1,).

    Best fit decreasing: the longest first, each into the fullest line that still holds it. Source: Johnson 1973.
    """
    lines: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(width + 1)]  # lines by what still fits into them
    some = 0  # bit r: a line with room r exists
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        fitting = some >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            line = by_room[room].pop()
            if not by_room[room]:
                some &= ~(1 << room)
            lines[line].append(item)
        else:
            room, line = width, len(lines)
            lines.append([item])
        if room > size:
            by_room[room - size].append(line)
            some |= 1 << (room - size)
    lines = sorted(map(sorted, lines))
    members = np.array([item for line in lines for item in line], dtype=np.int64)
    return members, np.concatenate([[0], np.cumsum(list(map(len, lines)))]).astype(np.int64)
