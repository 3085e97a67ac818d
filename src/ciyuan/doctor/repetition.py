"""What is there twice: within the files, in dev as well, or with another target or label."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ciyuan.data.checks import Corpus
from ciyuan.data.readers import Record
from ciyuan.doctor import nearness
from ciyuan.doctor.examining import Context, found
from ciyuan.doctor.findings import Finding, excerpt

MOST_COMPARED = 1_000_000
"""Examples up to which near repetitions are looked for, in 100 MB; of a larger corpus, among the first of them."""


class Repetition:
    """Keeps hashes alone, and reads again what it has to show or to compare."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.keys, self.wholes, self.near = array("Q"), array("Q"), _Near()
        self.near_keys = self.near if context.shape == "texts" else _Near()
        dev = [record for record in context.dev if all(text.strip() for text in context.corpus.key_of(record))]
        self.dev_keys = {_hash(context.corpus.key_of(record)): record for record in reversed(dev)}
        self.dev = dev

    def look(self, record: Record) -> Iterable[Finding]:
        texts = [text.strip() for text in record.fields.values()]
        key = self.context.corpus.key_of(record)
        self.keys.append(_hash(key) if all(key) else 0)
        self.wholes.append(_hash(texts) if all(texts[: len(key)]) else 0)
        if not self.context.near:
            return ()
        self.near.append(_joined(_own_texts(record)))
        if self.near_keys is not self.near and self.dev:
            self.near_keys.append(_joined(key))
        return ()

    def conclude(self) -> Iterator[Finding]:
        wholes, keys = np.frombuffer(self.wholes, np.uint64), np.frombuffer(self.keys, np.uint64)
        again = _later(wholes)
        leaking = np.isin(keys, np.array(list(self.dev_keys), np.uint64)) & (keys != 0) if self.dev_keys else keys < 0
        differing = _disagreeing(keys, wholes) if self.context.shape in ("pairs", "labelled") else keys < 0
        near = self._compared(self.near.candidates(), ~(again | leaking))
        near_dev = self._compared_with_dev(~leaking) if self.dev else {}
        first_whole, first_key = _first_places(wholes, again), _first_places(keys, differing)
        pointed_at = {*first_whole.values(), *first_key.values(), *near.values()}
        places = {*np.flatnonzero(again | leaking | differing).tolist(), *pointed_at, *near, *near_dev}
        where: dict[int, str] = {}
        for place, record in self.context.reread(sorted(places)):
            if place in pointed_at:
                where[place] = record.where
            if leaking[place]:
                its = self.dev_keys[int(keys[place])]
                yield found("leak", record, " ".join(self.context.corpus.key_of(record)), f"is {its.where}")
            if again[place]:
                yield found("duplicate", record, note=f"repeats {where[first_whole[int(wholes[place])]]}")
            elif differing[place] and first_key[int(keys[place])] != place:
                first = where[first_key[int(keys[place])]]
                kind = "conflicting-labels" if self.context.shape == "labelled" else "several-targets"
                said = list(record.fields.values())
                yield found(kind, record, f"{said[0]} ⇥ {said[-1]}", f"otherwise at {first}")
            if place in near and not again[place]:
                yield found("near-duplicate", record, note=f"near {where[near[place]]}")
            if place in near_dev:
                its = near_dev[place]
                yield found("near-leak", record, " ".join(self.context.corpus.key_of(record)),
                            f"near {its.where}: {excerpt(self.context.corpus.key_of(its)[0])}")  # fmt: skip

    def _compared(self, pairs: Mapping[int, Sequence[int]], alive: NDArray[np.bool_]) -> dict[int, int]:
        """Each place that is near an earlier one, and that one."""
        pairs = {place: firsts for place, firsts in pairs.items() if alive[place]}
        texts = self._read({*pairs, *(first for firsts in pairs.values() for first in firsts)}, _own_texts)
        near: dict[int, int] = {}
        for place, firsts in sorted(pairs.items()):
            match = next((first for first in firsts if nearness.are_near(texts[place], texts[first])), None)
            if match is not None:
                near[place] = match
        return near

    def _compared_with_dev(self, alive: NDArray[np.bool_]) -> dict[int, Record]:
        dev = [_joined(self.context.corpus.key_of(record)) for record in self.dev]
        hits = nearness.matches(self.near_keys.bands(), nearness.bands_of(dev))
        hits = {place: those for place, those in hits.items() if alive[place]}
        texts = self._read(set(hits), self.context.corpus.key_of)
        near: dict[int, Record] = {}
        for place, those in hits.items():
            match = next((i for i in those if nearness.are_near(texts[place], dev[i]) and dev[i]), None)
            if match is not None:
                near[place] = self.dev[match]
        return near

    def _read(self, places: set[int], texts: Callable[[Record], Sequence[str]]) -> dict[int, str]:
        return {place: _joined(texts(record)) for place, record in self.context.reread(sorted(places))}


def _own_texts(record: Record) -> list[str]:
    """All texts of a record but the passage, which questions share."""
    return [text for role, text in record.fields.items() if role != "passage"]


def near_leaks(corpus: Corpus, train: Iterable[Record], dev: Sequence[Record]) -> list[Record]:
    """The train examples that are nearly, but not quite, the same as one of dev."""
    keys = [_joined(corpus.key_of(record)) for record in dev]
    if not keys:
        return []
    others, found = nearness.bands_of(keys), list[Record]()
    records = iter(train)
    while chunk := list(itertools.islice(records, nearness.CHUNK)):
        texts = [_joined(corpus.key_of(record)) for record in chunk]
        for place, hits in nearness.matches(nearness.bands_of(texts), others).items():
            if any(keys[hit] and nearness.are_near(texts[place], keys[hit]) for hit in hits):
                found.append(chunk[place])
    return found


class _Near:
    """The bands of many texts, worked out some at a time."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._parts: list[nearness.Bands] = []
        self._n = 0

    def append(self, text: str) -> None:
        if self._n + len(self._waiting) >= MOST_COMPARED:
            return
        self._waiting.append(text)
        if len(self._waiting) >= nearness.CHUNK:
            self._work()

    def bands(self) -> nearness.Bands:
        self._work()
        return np.concatenate(self._parts) if self._parts else nearness.bands_of([])

    def candidates(self) -> dict[int, list[int]]:
        return nearness.candidates(self.bands())

    def _work(self) -> None:
        if self._waiting:
            self._parts.append(nearness.bands_of(self._waiting))
            self._n += len(self._waiting)
            self._waiting = []


def _joined(texts: Iterable[str]) -> str:
    return nearness.plain(" ".join(texts))


def _hash(texts: Sequence[str]) -> int:
    """64 bits, never 0."""
    return int.from_bytes(hashlib.blake2b("\0".join(texts).encode(), digest_size=8).digest(), "little") or 1


def _later(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which values occurred before; 0 does not count."""
    first = np.zeros(len(values), dtype=bool)
    first[np.unique(values, return_index=True)[1]] = True
    return np.asarray(~first & (values != 0))


def _disagreeing(keys: NDArray[np.uint64], wholes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which keys occur with more than one whole."""
    pairs = np.unique(np.stack([keys, wholes], axis=1), axis=0)
    values, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(np.isin(keys, values[counts > 1]) & (keys != 0) & (wholes != 0))


def _first_places(values: NDArray[np.uint64], chosen: NDArray[np.bool_]) -> dict[int, int]:
    """The first place of each value that is among the chosen."""
    every, first = np.unique(values, return_index=True)
    wanted = np.isin(every, values[chosen])
    return dict(zip(every[wanted].tolist(), first[wanted].tolist(), strict=True))
