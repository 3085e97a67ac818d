"""Look at every example once before any is trained on: what is empty, repeated, held out, or in dev as well.

Memory does not grow with the corpus, but for one byte an example: hashes wait on the disk and are compared in portions.
Hashes have 64 bits: among fifty million examples the odds that any is wrongly taken for a repetition are 1 in 15,000.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import math
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ciyuan.data.folders import saying_disk_errors
from ciyuan.data.readers import Columns, Record, Tally, corpora, read
from ciyuan.data.readers.record import ANSWERS, CHATS
from ciyuan.data.settings import DataSettings
from ciyuan.errors import DataError

Shape = Literal["pairs", "texts", "labelled", "answers", "chats"]
Hashes = NDArray[np.uint64]

TRAIN, DEV = 0, 1
MAX_LABELS = 1000
MAX_HELD_OUT: dict[Shape, float] = {"pairs": 0.2, "labelled": 0.2, "texts": 0.05, "answers": 0.2, "chats": 0.2}
"""The largest share of a corpus that becomes dev; a small corpus gives less than was asked for, and that is said."""
PORTION = 2**21
"""Hashes compared at a time, in 16 MiB."""


@dataclass
class Verdicts:
    """What becomes of each train record, and why. codes: (n,) uint8, an index into reasons; 0 = train, 1 = dev."""

    codes: NDArray[np.uint8]
    reasons: tuple[str, ...]
    tally: Tally
    labels: Counter[str] = field(default_factory=Counter)
    first_leak: str | None = None

    def count(self, reason: str) -> int:
        return int((self.codes == self.reasons.index(reason)).sum())

    @property
    def dropped(self) -> dict[str, int]:
        """By reason, those that the reader passed over included; what does not occur is left out."""
        counts = np.bincount(self.codes, minlength=len(self.reasons))
        ours = {reason: int(n) for reason, n in zip(self.reasons, counts, strict=True) if n}
        return {k: v for k, v in {**self.tally.skipped, **ours}.items() if k not in self.reasons[:2]}


class Corpus:
    """The examples of `settings.train` that may be learnt from, and of dev, which they never repeat.

    Nothing is read before it is needed; everything is read as often as needed, in the same order. scratch: where to keep
    hashes while checking. Raises DataError.
    """

    def __init__(self, settings: DataSettings, shape: Shape = "pairs", *, scratch: str | Path | None = None) -> None:
        if not settings.train:
            raise DataError("no file to train on", where="data.train", fix="give one with --data FILE")
        self.settings, self.shape, self._scratch = settings, shape, scratch
        self.columns = _columns(settings, shape)
        self.dev_columns = dataclasses.replace(self.columns, group=None)
        dev = (settings.dev,) if isinstance(settings.dev, str) else settings.dev
        self.dev_files: tuple[str, ...] = dev if isinstance(dev, tuple) else ()
        corpora(settings.train, self.columns)
        corpora(self.dev_files, self.dev_columns)
        self._seen = self._signs()

    @property
    def files(self) -> tuple[str, ...]:
        return self.settings.train

    @property
    def may_be_empty(self) -> frozenset[str]:
        """The roles whose text may be empty: an answer that the passage does not hold, no label of several."""
        return frozenset({"answer", "label"} if self.columns.label_separator is not None else {"answer"})

    def key_of(self, record: Record) -> list[str]:
        """The texts by which an example is known again in dev: what the model reads, without what it is to say."""
        return _texts(record)[: {"labelled": len(self.columns.roles) - 1, "answers": 2}.get(self.shape, 1)]

    @cached_property
    def content(self) -> str:
        """SHA-256 of the bytes of all files, in their order."""
        digest = hashlib.sha256()
        for path in (*self.files, "dev", *self.dev_files):
            if path.startswith("hf:"):
                for record in read([path], self.columns):
                    digest.update(repr(sorted(record.fields.items())).encode())
            elif path == "dev":
                digest.update(b"dev")
            else:
                with Path(path).open("rb") as stream:
                    # The name's end decides how the bytes are read.
                    digest.update(Path(path).suffix.encode() + hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def verdicts(self) -> Verdicts:
        with saying_disk_errors(Path(self._scratch or tempfile.gettempdir())):
            with contextlib.ExitStack() as stack:
                return _Check(self, stack).run()

    @cached_property
    def dev(self) -> list[Record]:
        """The examples to measure on: those of the dev file that are not empty, or those held out."""
        if self.dev_files:
            records = read(self.dev_files, self.dev_columns)
            kept = [record for record in records if self._is_whole(record)]
            if not kept:
                raise DataError("holds no example that is not empty", where=self.dev_files[0])
            return kept
        return [] if self.settings.dev is None else list(self._with_code(DEV))

    def train(self) -> Iterator[Record]:
        """The examples to learn from."""
        return self._with_code(TRAIN)

    def texts(self) -> Iterator[str]:
        """Every text to learn from, all sides but the labels: what a tokeniser is trained on. Dev is not among them.

        A passage counts once for all the neighbouring questions about it.
        """
        passage = None
        for record in self.train():
            for role, text in record.fields.items():
                if role != "label" and not (role == "passage" and text == passage):
                    yield text
            passage = record.fields.get("passage")

    def _is_whole(self, record: Record) -> bool:
        return all(text.strip() or role in self.may_be_empty for role, text in record.fields.items())

    def _with_code(self, code: int) -> Iterator[Record]:
        codes = self.verdicts.codes
        for record, its in zip(self._all(), codes, strict=True):
            if its == code:
                yield record

    def _all(self, tally: Tally | None = None) -> Iterator[Record]:
        yield from read(self.files, self.columns, tally)
        if self._signs() != self._seen:
            raise DataError("changed while it was read", where=", ".join(self.files), fix="start again")

    def _signs(self) -> list[tuple[int, int]]:
        local = [path for path in (*self.files, *self.dev_files) if not path.startswith("hf:")]
        return [(status.st_size, status.st_mtime_ns) for status in map(os.stat, local)]


def _columns(settings: DataSettings, shape: Shape) -> Columns:
    labelled = {"text": settings.text, "second": settings.second, "label": settings.label}
    names: dict[Shape, dict[str, str | None]] = {
        "pairs": {"source": settings.source, "target": settings.target},
        "texts": {"text": settings.text},
        "labelled": {role: name for role, name in labelled.items() if role != "second" or name is not None},
        "answers": dict(zip(ANSWERS, (settings.question, settings.passage, settings.answer), strict=True)),
        "chats": dict.fromkeys(CHATS, settings.text),
    }
    several = settings.label_separator if shape == "labelled" and settings.multi_label else None
    return Columns(names[shape], settings.group, label_separator=several)


class _Check:
    """One pass over the corpus. Of each record: key, the hash of its first text; whole, of all its texts; unit, of what
    train and dev may not share."""

    def __init__(self, corpus: Corpus, stack: contextlib.ExitStack) -> None:
        self.corpus, self.settings = corpus, corpus.settings
        roles = corpus.columns.roles
        self.reasons = ("train", "dev", *(f"empty {role}" for role in roles), "duplicate", "also in dev")
        scratch = corpus._scratch
        if scratch is not None:
            Path(scratch).mkdir(parents=True, exist_ok=True)
        self.keys, self.wholes, self.units, self.lines = (_Numbers(stack, scratch) for _ in range(4))
        self.n_groups = 0

    def run(self) -> Verdicts:
        tally, labels = Tally(), Counter[str]()
        codes = self._read(tally, labels)
        if not len(codes):
            raise DataError(f"holds no {self.corpus.shape}", where=", ".join(self.corpus.files),
                            allowed=_listed(tally.skipped) and f"passed over: {_listed(tally.skipped)}")  # fmt: skip
        if self.settings.duplicates == "drop":
            self._mark_duplicates(codes)
        dev_keys = np.empty(0, np.uint64)
        if self.corpus.dev_files:
            dev_keys = np.unique(np.array([_hash(self.corpus.key_of(record)) for record in self.corpus.dev], np.uint64))
        elif self.settings.dev is not None:
            assert isinstance(self.settings.dev, int)
            dev_keys = self._hold_out(codes, self.settings.dev, tally)
        leaks = self._find_leaks(codes, dev_keys)
        verdicts = Verdicts(codes, self.reasons, tally, labels)
        if len(leaks):
            record = next(itertools.islice(self.corpus._all(), int(leaks[0]), None))
            shown = _texts(record)[0]
            verdicts.first_leak = f"{record.where}: {shown if len(shown) <= 60 else shown[:59] + '…'}"
            if self.settings.leaks == "drop" or not self.corpus.dev_files:  # what we hold out ourselves never leaks
                codes[leaks] = self._code("also in dev")
            else:
                tally.note(f"{len(leaks):,} train examples are also in dev and stay (data.leaks: keep)")
        if not (codes == TRAIN).any():
            raise DataError("no example is left to train on", where=", ".join(self.corpus.files),
                            allowed=f"dropped: {_listed(verdicts.dropped)}", fix=verdicts.first_leak and
                            "is dev the same file as train?")  # fmt: skip
        return verdicts

    def _read(self, tally: Tally, labels: Counter[str]) -> NDArray[np.uint8]:
        codes = bytearray()
        shift = _Shift()
        roles, may_be_empty = self.corpus.columns.roles, self.corpus.may_be_empty
        group: str | None = None
        unit = 0
        for record in self.corpus._all(tally):
            texts = _texts(record)
            codes.append(next((i for i, (role, text) in enumerate(zip(roles, texts, strict=True), start=2)
                               if not text and role not in may_be_empty), TRAIN))  # fmt: skip
            key = _hash(self.corpus.key_of(record))
            self.keys.append(key)
            self.wholes.append(key if self.corpus.key_of(record) == texts else _hash(texts))
            self.lines.append(record.lines)
            if record.group is not None and record.group != group:
                group, unit = record.group, _hash([record.group])
                self.n_groups += 1
            self.units.append(key if record.group is None else unit)
            if self.corpus.shape == "pairs":
                shift.look(record, texts)
            elif self.corpus.shape == "labelled":
                labels.update(labels_of(record, self.corpus))
                if len(labels) > MAX_LABELS:
                    raise DataError(f"more than {MAX_LABELS:,} different labels", where=record.where,
                                    fix="is data.label the right column?")  # fmt: skip
        return np.frombuffer(codes, np.uint8).copy()

    def _mark_duplicates(self, codes: NDArray[np.uint8]) -> None:
        """Every record but the first of its kind, comparing a portion of the hashes at a time."""
        portions = len(codes) // PORTION + 1
        for portion in range(portions):
            found: list[Hashes] = []
            places: list[NDArray[np.int64]] = []
            for start, hashes in self.wholes.portions():
                here = np.flatnonzero(
                    (hashes % np.uint64(portions) == portion) & (codes[start : start + len(hashes)] == TRAIN)
                )
                found.append(hashes[here])
                places.append(here + start)
            values, place = np.concatenate(found), np.concatenate(places)
            first = np.zeros(len(values), dtype=bool)
            first[np.unique(values, return_index=True)[1]] = True
            codes[place[~first]] = self._code("duplicate")

    def _hold_out(self, codes: NDArray[np.uint8], asked: int, tally: Tally) -> Hashes:
        """Mark `asked` examples (lines, for texts) as dev: the units whose hashes are smallest, so that the choice depends
        on nothing but the data, and moves little when it grows. Returns the keys of dev."""
        grouped = self.n_groups > 1
        column = self.units if grouped else self.keys
        units, weights, total = self._weigh(column, codes, None if grouped else 2 * asked + 1000)
        share = MAX_HELD_OUT[self.corpus.shape]
        most = int(total * share) if len(units) > 1 else 0
        if most < 1:
            raise DataError(f"{_counted(len(units), 'example')} cannot be parted into train and dev",
                            where=", ".join(self.corpus.files), fix="give more text, a dev file, or data.dev: 0")  # fmt: skip
        if asked > most:
            tally.note(f"dev: {most:,} instead of {asked:,}: at most {share:.0%} of the corpus is held out")
        wanted, total = min(asked, most), 0
        chosen = []
        for i, weight in enumerate(weights.tolist()):
            if total + weight <= wanted:
                chosen.append(i)
                total += weight
            if total == wanted:
                break
        if not chosen:
            chosen = [int(weights.argmin())]
            tally.note(f"dev: {int(weights.min()):,} instead of {wanted:,}: the smallest group is held out")
        dev_units = units[np.sort(np.array(chosen))]
        keys: list[Hashes] = []
        taken = np.zeros(len(dev_units), dtype=bool)
        for (start, these), (_, its_keys) in zip(column.portions(), self.keys.portions(), strict=True):
            here = np.flatnonzero(_among(these, dev_units) & (codes[start : start + len(these)] == TRAIN))
            if not grouped:  # of one source with several targets only the first is measured on
                values, first = np.unique(these[here], return_index=True)
                place = np.searchsorted(dev_units, values)
                here = here[np.sort(first[~taken[place]])]
                taken[place] = True
            codes[here + start] = DEV
            keys.append(its_keys[here])
        return np.unique(np.concatenate(keys))

    def _weigh(
        self, column: _Numbers, codes: NDArray[np.uint8], most: int | None
    ) -> tuple[Hashes, NDArray[np.int64], int]:
        """The different hashes of the records to train on, upwards, `most` of them; how many lines has each; lines in all."""
        units, weights = np.empty(0, np.uint64), np.empty(0, np.int64)
        grouped, total = column is self.units, 0
        for (start, hashes), (_, lines) in zip(column.portions(), self.lines.portions(), strict=True):
            alive = codes[start : start + len(hashes)] == TRAIN
            both = np.concatenate([units, hashes[alive]])
            counts = np.concatenate([weights, lines[alive].astype(np.int64)])
            total += int(counts[len(weights) :].sum())
            units, first, inverse = np.unique(both, return_index=True, return_inverse=True)
            if grouped:
                weights = np.bincount(inverse, weights=counts, minlength=len(units)).astype(np.int64)
            else:
                weights = counts[first]
            units, weights = units[:most], weights[:most]
        return units, weights, total

    def _find_leaks(self, codes: NDArray[np.uint8], dev_keys: Hashes) -> NDArray[np.int64]:
        """The places of train records whose first text is also one of dev."""
        places = [np.empty(0, np.int64)]
        for start, keys in self.keys.portions():
            alive = codes[start : start + len(keys)] == TRAIN
            places.append(np.flatnonzero(_among(keys, dev_keys) & alive) + start)
        return np.concatenate(places)

    def _code(self, reason: str) -> int:
        return self.reasons.index(reason)


class _Shift:
    """Notices that targets slipped against their sources: in a window of pairs, lengths go together better at another line.

    Random partners correlate by less than 0.3 in a window of this size, true ones by 0.5 to 0.95; both conditions
    together are met by chance less than once in a billion windows.
    """

    WINDOW = 250
    REACH = 8

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.first: Record | None = None

    def look(self, record: Record, texts: Sequence[str]) -> None:
        self.first = self.first or record
        self.sizes.append((len(texts[0]), len(texts[1])))
        if len(self.sizes) == self.WINDOW:
            shift = self.best()
            if shift:
                raise DataError(
                    "the targets seem shifted against their sources", where=self.first.where,
                    allowed=f"from about here the length of a target fits the source {_counted(abs(shift), 'line')} "
                    f"{'earlier' if shift > 0 else 'later'} better than its own",
                    fix="compare the lines from here on and a few hundred before; a line is missing or doubled in one side",
                )  # fmt: skip
            self.sizes, self.first = [], None

    def best(self) -> int:
        """By how many lines the targets are late; 0 where they are not."""
        source, target = np.log1p(np.array(self.sizes, dtype=np.float64)).T
        fits = {0: _correlation(source, target)}
        for k in range(1, self.REACH + 1):
            fits[k] = _correlation(source[:-k], target[k:])
            fits[-k] = _correlation(source[k:], target[:-k])
        best = max(fits, key=lambda k: fits[k])
        return best if fits[0] < 0.3 and fits[best] > max(0.5, fits[0] + 0.35) else 0


class _Numbers:
    """A long list of 64-bit numbers, kept on the disk in a file without a name."""

    def __init__(self, stack: contextlib.ExitStack, folder: str | Path | None) -> None:
        self._file = stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (the stack closes it)
        self._buffer = array("Q")
        self._n = 0

    def append(self, number: int) -> None:
        self._buffer.append(number)
        self._n += 1
        if len(self._buffer) >= 2**16:
            self._flush()

    def portions(self) -> Iterator[tuple[int, Hashes]]:
        """(place of the first, numbers), PORTION at a time."""
        self._flush()
        start = 0
        while start < self._n:
            self._file.seek(8 * start)  # each time: the same numbers may be read in two places at once
            numbers = np.frombuffer(self._file.read(8 * PORTION), np.uint64)
            yield start, numbers
            start += len(numbers)

    def _flush(self) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(self._buffer.tobytes())
        self._buffer = array("Q")


def labels_of(record: Record, corpus: Corpus) -> tuple[str, ...]:
    """The labels of a labelled text: exactly one, unless it may have several."""
    return (record.fields["label"],) if corpus.columns.label_separator is None else record.labels


def _texts(record: Record) -> list[str]:
    return [text.strip() for text in record.fields.values()]


def _hash(texts: Sequence[str]) -> int:
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _among(values: Hashes, sorted_set: Hashes) -> NDArray[np.bool_]:
    if not len(sorted_set):
        return np.zeros(len(values), dtype=bool)
    place = np.minimum(np.searchsorted(sorted_set, values), len(sorted_set) - 1)
    return np.asarray(sorted_set[place] == values)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else 0.0


def _listed(counts: Any) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in counts.items())


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
