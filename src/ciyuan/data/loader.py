"""Which examples make up which batch: a pure function of (seed, epoch, position), so that going on costs a look-up.

widths sorted, longest first  |  strip 0: 3 batches wide   |  strip 1 ...
inside a strip, by the other side: so both sides of a batch are nearly rectangular
batch b of the plan = order[starts[b] : starts[b + 1]]; the batches are then taken in random order
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ciyuan.errors import DataError

STRIP = 3
"""Batches of like width among which examples are parted by their other side. Fewer pad the other side more, more the wider."""


@dataclass(frozen=True)
class _Plan:
    order: NDArray[np.int64]  # (n,) example numbers, batch after batch
    sequence: NDArray[np.int64]  # (n_batches,) which batch comes when


@dataclass(frozen=True)
class Padding:
    """How much of the batches is padding, and how even they are. Shares of all tokens computed on."""

    widest: float
    """Share on the wider side, by which a batch is budgeted."""
    all_sides: float
    """Share over all sides, each padded to its own longest."""
    batches: int
    mean_cost: float
    """Rows × widest of an average batch, in tokens."""
    max_cost: int


class Loader:
    """Batches of a token budget, of examples of like length, each example once an epoch.

    lengths: (n,) tokens of each example, or (n, 2) of its source and target. A batch costs rows × its widest, where the
    width of an example is its longest side plus `extra` (1: the end marker); it costs at most `batch_tokens`, except
    where one example alone is wider: that one is a batch of its own, and counted in `oversized`.

    The plan is one for all ranks. Rank r of `world` gets rows r, r + world, … of each global batch, so any number of
    ranks sees the same batches in the same order; a batch with fewer rows than ranks leaves some ranks an empty part.
    The number of batches is the same in every epoch. With shuffle=False the long come before the short and nothing is random.
    """

    def __init__(
        self, lengths: ArrayLike, batch_tokens: int, seed: int = 0, *, rank: int = 0, world: int = 1,
        shuffle: bool = True, extra: int = 1,
    ) -> None:  # fmt: skip
        sides = np.asarray(lengths, dtype=np.int64)
        sides = (sides[:, None] if sides.ndim == 1 else sides) + extra
        if len(sides) == 0:
            raise DataError("there are no examples to make batches of")
        if batch_tokens < 1 or not 0 <= rank < world:
            raise ValueError(f"batch_tokens {batch_tokens} and rank {rank} of {world} make no batches")
        self.batch_tokens, self.seed, self.rank, self.world, self.shuffle = batch_tokens, seed, rank, world, shuffle
        self._sides = sides
        self._widths = sides.max(axis=1)
        self.oversized = int((self._widths > batch_tokens).sum())
        self._narrowness = self._widths.max() - self._widths
        descending = np.sort(self._widths)[::-1]
        self._starts, self._strips = _cut(descending, batch_tokens, STRIP if sides.shape[1] > 1 else 1)
        self._tie = _other_side(sides)
        self._plans: dict[int, _Plan] = {}

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._starts) - 1

    @property
    def n_examples(self) -> int:
        return len(self._widths)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the order: equal fingerprints, equal batches. Ranks do not count."""
        decisive = f"1 {self.batch_tokens} {self.seed} {self.shuffle} {STRIP} {self._sides.shape}".encode()
        return hashlib.sha256(decisive + self._sides.astype("<i8").tobytes()).hexdigest()

    def steps_per_epoch(self, epoch: int = 0) -> int:
        return len(self)

    def at(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Epoch and this rank's example numbers at a step, counted from 0 over all epochs."""
        epoch, batch = self.global_at(step)
        return epoch, batch[self.rank :: self.world]

    def global_at(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Epoch and the example numbers of all ranks at a step."""
        epoch, position = divmod(step, len(self))
        plan = self._plan(epoch)
        batch = plan.sequence[position]
        return epoch, plan.order[self._starts[batch] : self._starts[batch + 1]]

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """This rank's part of every batch of an epoch."""
        first = epoch * len(self)
        return [self.at(step)[1] for step in range(first, first + len(self))]

    def from_step(self, step: int) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        """(step, epoch, example numbers), without end, from a step on."""
        while True:
            yield step, *self.at(step)
            step += 1

    def padding(self) -> Padding:
        """Measured on the first epoch's plan."""
        starts, sides = self._starts[:-1], self._sides[self._plan(0).order]
        rows = np.diff(self._starts)
        widest = np.maximum.reduceat(sides, starts, axis=0)  # (n_batches, C)
        cost = rows * widest.max(axis=1)
        return Padding(
            widest=float(1 - self._widths.sum() / cost.sum()),
            all_sides=float(1 - sides.sum() / (rows * widest.sum(axis=1)).sum()),
            batches=len(rows),
            mean_cost=float(cost.mean()),
            max_cost=int(cost.max()),
        )

    def _plan(self, epoch: int) -> _Plan:
        plan = self._plans.get(epoch)
        if plan is None:
            while len(self._plans) > 1:
                del self._plans[min(self._plans)]
            plan = self._plans[epoch] = self._draw(epoch)
        return plan

    def _draw(self, epoch: int) -> _Plan:
        n = self.n_examples
        order, sequence = np.arange(n), np.arange(len(self))
        if self.shuffle:
            raw = _random_words(n + len(self), self.seed, epoch)
            order, sequence = np.argsort(raw[:n], kind="stable"), np.argsort(raw[n:], kind="stable")
        order = order[_stable_argsort(self._narrowness[order])]
        if self._tie is not None:
            by_tie = _stable_argsort(self._tie[order])
            order = order[by_tie[_stable_argsort(self._strips[by_tie])]]
        return _Plan(order, sequence)


def random_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """(n,) the numbers 0 … n − 1 in an order that depends on nothing but n, seed and epoch."""
    return np.argsort(_random_words(n, seed, epoch), kind="stable")


def _random_words(n: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    """Raw 64-bit words, to be sorted: numpy promises Philox's stream for ever, but not what Generator.permutation makes of it."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    key = np.array([int.from_bytes(digest, "little"), epoch], dtype=np.uint64)  # Philox's key is two words
    return np.random.Philox(key=key).random_raw(n)


def _stable_argsort(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """argsort of numbers ≥ 0 that keeps ties in order: 16 bits at a time, for which numpy sorts by radix, many times faster."""
    order = np.argsort((values & 0xFFFF).astype(np.uint16), kind="stable")
    high = values >> 16
    return order[_stable_argsort(high[order])] if high.any() else order


def _cut(widths: NDArray[np.int64], budget: int, strip: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where batches start (n_batches + 1,) in widths sorted downwards, and the strip (n,) of each place.

    All batches of a strip have the rows that its first, widest example allows.
    """
    n, start, starts, ends = len(widths), 0, [], []
    while start < n:
        rows = max(1, budget // int(widths[start]))
        end = min(n, start + rows * strip)
        starts.append(np.arange(start, end, rows))
        ends.append(end)
        start = end
    sizes = np.diff(np.array([0, *ends]))
    return np.concatenate([*starts, [n]]).astype(np.int64), np.repeat(np.arange(len(ends)), sizes)


def _other_side(sides: NDArray[np.int64]) -> NDArray[Any] | None:
    """(n,) by what to sort examples of like width: those wider in the source by their target, upwards, then the others by
    their source, downwards; so that neighbours have both sides alike. None for texts with one side."""
    if sides.shape[1] == 1:
        return None
    source, target = sides[:, 0], sides[:, -1]
    limit = int(sides.max()) + 1
    return np.where(source >= target, target, 2 * limit - source)
