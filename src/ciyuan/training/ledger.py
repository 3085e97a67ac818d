"""Which examples each step used: eight bytes a step, by which the plan of the batches is proven to be what was really read.

    ciyuan ledger 2 | step 1 | step 2 | …     each: bits 0–39 the mark, 40–47 the stage of the run, 48–62 how many ranks,
                                              63 whether the update was skipped

The order of the data is a pure function of the settings, the data and the step, so the numbers of the examples need not be
stored: they are planned again. What could make the plan lie is data, tokeniser, settings or code that are no longer what they were;
hence the mark, a hash of all whole numbers that the step was fed: tokens, places, targets. A step whose batches, made again, have
another mark is not vouched for. Version 1 had the mark's carry over the ranks where the stage is, for nothing moved with the run.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ciyuan.batch import Batch
from ciyuan.data.folders import saying_disk_errors
from ciyuan.errors import DataError

HEAD, HEAD_1 = b"ciyuan ledger 2\n", b"ciyuan ledger 1\n"
RECORD = 8  # bytes of a step
MARK_BITS = 40  # so that the sum over ranks, which they exchange as floats, is exact
_STAGE, _RANKS, _SKIPPED = MARK_BITS, 48, 63  # bits


@dataclass(frozen=True)
class Entry:
    """What is known of a step. mark: the sum over its ranks, without the carry; 0 where the line was lost. skipped: nothing was
    learnt from it. stage: of the run (`ramps.stage_of`)."""

    step: int
    mark: int
    ranks: int
    skipped: bool
    stage: int = 0


class Ledger:
    """The file of a run that is going on; rank 0's. A step's entry is on the disk with the next checkpoint at the latest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = bytearray()

    def add(self, mark: int, ranks: int, *, stage: int = 0, skipped: bool) -> None:
        word = without_carry(mark) | stage << _STAGE | min(ranks, 0x7FFF) << _RANKS | int(skipped) << _SKIPPED
        self._waiting += word.to_bytes(RECORD, "little")

    def sync(self) -> None:
        """All that was added is on the disk once this returns. Raises DiskError."""
        with saying_disk_errors(self.path), self.path.open("ab", buffering=0) as file:
            if file.tell() == 0:
                self._waiting[:0] = HEAD
            while self._waiting:  # a disk that gets full takes a part of it first
                del self._waiting[: file.write(self._waiting)]
            os.fsync(file.fileno())

    def cut(self, step: int) -> bool:
        """Forget what came after `step`. False where entries up to it are lost, which are then marked as unknown."""
        self._waiting.clear()
        wanted = len(HEAD) + RECORD * step
        with saying_disk_errors(self.path), self.path.open("ab", buffering=0) as file:
            size = file.tell()
            _bring_up_to_date(self.path)
            if size < len(HEAD):
                file.truncate(0)
                file.write(HEAD)
            file.truncate(wanted)  # where the file is shorter, the system fills it up with zeros
        return size >= wanted


def read(path: Path) -> list[Entry]:
    """The entries of a run, step 1 first. Raises DataError where there is no ledger."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}",
            where=path,
            fix="name the folder of a run of this version or a later one",
        ) from None
    if not data.startswith((HEAD, HEAD_1)):
        raise DataError("is not a ledger of this version", where=path)
    if data.startswith(HEAD_1):
        data = _without_carries(data)
    whole = (len(data) - len(HEAD)) // RECORD
    words = np.frombuffer(data, dtype="<u8", count=whole, offset=len(HEAD)).tolist()
    return [
        Entry(step, without_carry(word), word >> _RANKS & 0x7FFF, bool(word >> _SKIPPED), word >> _STAGE & 0xFF)
        for step, word in enumerate(words, start=1)
    ]


def without_carry(total: int) -> int:
    """A sum of marks as an entry has it."""
    return total % (1 << MARK_BITS)


def _bring_up_to_date(path: Path) -> None:
    """Make of version 1 this one: the head last, so that until then the file is of version 1, which reads the same."""
    with path.open("r+b", buffering=0) as file:
        data = file.read()
        if data.startswith(HEAD_1):
            file.seek(len(HEAD))
            file.write(_without_carries(data)[len(HEAD) :])
            os.fsync(file.fileno())
            file.seek(0)
            file.write(HEAD)


def _without_carries(data: bytes) -> bytes:
    whole = len(data) - (len(data) - len(HEAD)) % RECORD
    words = np.frombuffer(data[len(HEAD) : whole], dtype="<u8") & ~np.uint64(0xFF << _STAGE)
    return HEAD + words.astype("<u8").tobytes() + data[whole:]


def mark(batches: Sequence[Batch | None]) -> int:
    """A hash of all that this rank is fed in a step, below 2 ** MARK_BITS."""
    digest = hashlib.blake2b(digest_size=MARK_BITS // 8)
    for batch in batches:
        if batch is None:
            digest.update(b"no part\n")
            continue
        for name, tensor in _tensors(batch):
            shaped = f"{name} {tuple(tensor.shape)} {tensor.dtype}\n"
            digest.update(shaped.encode() + tensor.contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little")


def _tensors(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for name, stream in (("text", batch.text), ("source", batch.source)):
        if stream is not None:
            yield f"{name}.tokens", stream.tokens
            yield f"{name}.positions", stream.layout.positions
            yield f"{name}.segments", stream.layout.segments
            if stream.token_types is not None:
                yield f"{name}.token_types", stream.token_types
    yield "targets", batch.targets
    for name, tensor in sorted(batch.extra.items()):
        if not tensor.is_floating_point():  # those are computed, and another machine rounds in another way
            yield name, tensor
