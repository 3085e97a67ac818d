"""From files to token ids, once: check, encode, store, and say what became of every example.

CACHE/<key>/train/, dev/      token stores
            dev.jsonl         the dev examples as text, line i beside example i of dev/
            preflight.json    the counts, and the seals of the others; written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ciyuan.data.checks import Corpus
from ciyuan.data.folders import new_folder, one_at_a_time
from ciyuan.data.readers import Record
from ciyuan.data.store import StoreWriter, TokenStore, read_sealed, write_sealed
from ciyuan.errors import DataError

FORMAT = 1
CHUNK = 512
"""Records encoded at a time."""
HASH_ALL = 2**26
"""Bytes up to which a reused store is hashed whole, in a fraction of a second; of larger ones the sizes are compared."""


class Encoder(Protocol):
    """What is asked of a tokeniser."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_batch(self, texts: Any, /) -> list[list[int]]: ...


@dataclass(frozen=True)
class Preflight:
    """What training will see, counted. Tokens are counted by column, without markers such as the end."""

    files: tuple[str, ...]
    records: int
    """Read from the train files, those that a reader passed over not counted."""
    examples: int
    tokens: dict[str, int]
    longest: dict[str, int]
    dropped: dict[str, int]
    """By reason: "empty source", "duplicate", "also in dev", "too long", and what readers passed over ("fuzzy")."""
    truncated: int
    dev_examples: int
    dev_tokens: dict[str, int]
    dev_truncated: int
    first_leak: str | None
    notes: tuple[str, ...]
    labels: dict[str, int]
    """Train examples of each label."""
    example: dict[str, str]
    """The first train example, as text."""
    cached: bool = False

    @property
    def leaks(self) -> int:
        return self.dropped.get("also in dev", 0)

    def lines(self) -> list[str]:
        """All of it for people, a fact a line; no fact that is zero."""
        tokens = ", ".join(f"{n:,} {name}" for name, n in self.tokens.items())
        longest = ", ".join(f"{n:,} {name}" for name, n in self.longest.items())
        said = [
            f"{self.examples:,} of {self.records:,} examples to learn from: {tokens} tokens (longest: {longest})"
            + (", reused from an earlier preparation" if self.cached else "")
        ]
        if self.dropped:
            said.append("dropped: " + ", ".join(f"{n:,} {reason}" for reason, n in self.dropped.items()))
        if self.truncated:
            said.append(f"truncated: {self.truncated:,}")
        if self.first_leak:
            said.append(f"first train example that is also in dev: {self.first_leak}")
        if self.labels:
            said.append("labels: " + ", ".join(f"{label} {n:,}" for label, n in self.labels.items()))
        if self.dev_examples:
            cut = f", {self.dev_truncated:,} of them truncated for the loss" if self.dev_truncated else ""
            said.append(f"dev: {self.dev_examples:,} examples{cut}")
        return said + list(self.notes)


@dataclass(frozen=True)
class Prepared:
    """Ready to train on. train, dev: columns "source" and "target"; "text" and "document"; or "text" and "label".

    dev_records[i] is example i of dev as text, whole even where its tokens were truncated. labels: by their id.
    """

    train: TokenStore
    dev: TokenStore | None
    dev_records: tuple[Record, ...]
    preflight: Preflight
    labels: tuple[str, ...] = ()


def prepare(corpus: Corpus, encoder: Encoder, cache: str | Path) -> Prepared:
    """Token ids of the corpus, made once and kept in the folder `cache`.

    What is kept is found again by the bytes of the data, the tokeniser and the settings that matter; if it is damaged, it
    is made again and a note says so. Raises DataError, and DiskError where it cannot be written.
    """
    folder = Path(cache) / preparation_key(corpus, encoder)
    notes: tuple[str, ...] = ()
    if (kept := _reopen(folder, corpus)) is not None:
        return kept
    with one_at_a_time(folder):
        if (kept := _reopen(folder, corpus)) is not None:  # another process was at it and is done
            return kept
        if folder.exists():
            notes = (f"{folder}: the prepared data was damaged and has been made again",)
        with new_folder(folder, lambda path: _reopen(path, corpus) is not None) as draft:
            _write(draft, corpus, encoder)
    made = _reopen(folder, corpus)
    assert made is not None, folder
    preflight = dataclasses.replace(made.preflight, cached=False, notes=made.preflight.notes + notes)
    return dataclasses.replace(made, preflight=preflight)


def preparation_key(corpus: Corpus, encoder: Encoder) -> str:
    """The name under which the corpus, encoded so, is kept."""
    settings = corpus.settings
    decisive = settings.model_dump(mode="json", exclude={"train"})
    if corpus.dev_files:
        decisive["dev"] = "files"
    whole = [FORMAT, corpus.shape, corpus.content, encoder.fingerprint, encoder.vocab_size, decisive]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _write(draft: Path, corpus: Corpus, encoder: Encoder) -> None:
    verdicts, settings = corpus.verdicts, corpus.settings
    names = sorted({*verdicts.labels, *(r.fields["label"] for r in corpus.dev if "label" in r.fields)})
    labels = {name: i for i, name in enumerate(names)}
    cutter = None if corpus.shape == "texts" else settings.max_length
    first: list[Record] = []
    train, train_cut = _encode(draft / "train", _noticing_first(corpus.train(), first), encoder, labels, corpus,
                               cutter, truncate=settings.too_long == "truncate")  # fmt: skip
    dropped = {**verdicts.dropped, **train.dropped}
    if not len(train.store):
        listed = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
        raise DataError("no example is left to train on", where=", ".join(corpus.files), allowed=f"dropped: {listed}",
                        fix="raise data.max_length or set data.too_long: truncate")  # fmt: skip
    label_counts = _count_labels(train.store, names, corpus) if corpus.shape == "labelled" else {}
    dev_tokens: dict[str, int] = {}
    dev_cut, seals = 0, {"train": train.store.fingerprint}
    kept = list(corpus.dev)
    if kept:
        dev, dev_cut = _encode(draft / "dev", kept, encoder, labels, corpus, cutter, truncate=True, keep_empty=True)
        dev_tokens = {name: dev.store.n_tokens(name) for name in dev.store.columns if name in corpus.columns.roles}
        seals["dev"] = dev.store.fingerprint
    lines = [json.dumps([r.fields, r.file, r.line, r.group, r.lines], ensure_ascii=False) + "\n" for r in kept]
    text = "".join(lines).encode()
    (draft / "dev.jsonl").write_bytes(text)
    seals["dev.jsonl"] = hashlib.sha256(text).hexdigest()
    columns = [name for name in corpus.columns.roles if name != "label"]
    preflight = Preflight(
        files=corpus.files,
        records=len(verdicts.codes),
        examples=len(train.store),
        tokens={name: train.store.n_tokens(name) for name in columns},
        longest={name: int(train.store.lengths(name).max()) for name in columns},
        dropped=dropped,
        truncated=train_cut,
        dev_examples=len(kept),
        dev_tokens={name: n for name, n in dev_tokens.items() if name != "label"},
        dev_truncated=dev_cut,
        first_leak=verdicts.first_leak,
        notes=tuple(verdicts.tally.notes),
        labels=label_counts,
        example=dict(first[0].fields),
    )
    write_sealed(
        draft / "preflight.json", {"seals": seals, "labels": names, "preflight": dataclasses.asdict(preflight)}
    )


@dataclass(frozen=True)
class _Encoded:
    store: TokenStore
    dropped: dict[str, int]


def _encode(
    folder: Path, records: Iterable[Record], encoder: Encoder, labels: dict[str, int], corpus: Corpus,
    max_length: int | None, *, truncate: bool, keep_empty: bool = False,
) -> tuple[_Encoded, int]:  # fmt: skip
    """Write a store of the records; how many were truncated."""
    texts = [role for role in corpus.columns.roles if role != "label"]
    limits = dict.fromkeys(texts, encoder.vocab_size)
    if corpus.shape != "pairs":
        limits["label" if corpus.shape == "labelled" else "document"] = 2**32
    dropped: Counter[str] = Counter()
    n_truncated = 0
    with StoreWriter(folder, limits, {"tokenizer": encoder.fingerprint, "labels": list(labels)}) as writer:
        document, group = -1, None
        for chunk in _chunks(records):
            flat = encoder.encode_batch([record.fields[role] for record in chunk for role in texts])
            for record, ids in zip(chunk, _rows(flat, len(texts)), strict=True):
                if not keep_empty and not all(ids):
                    dropped["no tokens"] += 1
                    continue
                if max_length is not None and max(map(len, ids)) > max_length:
                    if not truncate:
                        dropped["too long"] += 1
                        continue
                    n_truncated += 1
                    ids = [side[:max_length] for side in ids]
                more: list[Sequence[int]] = []
                if corpus.shape == "labelled":
                    more = [[labels[record.fields["label"]]]]
                elif corpus.shape == "texts":
                    if record.group is None or record.group != group:
                        document, group = document + 1, record.group
                    more = [[document]]
                writer.append(*ids, *more)
    return _Encoded(TokenStore.open(folder), dict(dropped)), n_truncated


def _reopen(folder: Path, corpus: Corpus) -> Prepared | None:
    """What is kept there, or None where nothing is or it is not whole."""
    try:
        values = read_sealed(folder / "preflight.json")
        seals, labels, counts = values["seals"], values["labels"], values["preflight"]
        stores = {name: TokenStore.open(folder / name) for name in ("train", "dev") if name in seals}
        text = (folder / "dev.jsonl").read_bytes()
        seen = {name: store.fingerprint for name, store in stores.items()}
        if {**seen, "dev.jsonl": hashlib.sha256(text).hexdigest()} != seals:
            return None
        for store in stores.values():
            if store.n_bytes <= HASH_ALL:
                store.verify()
    except (DataError, OSError, KeyError):
        return None
    preflight = Preflight(**{**counts, "files": corpus.files, "notes": tuple(counts["notes"]), "cached": True})
    records = tuple(Record(*json.loads(line)) for line in text.decode().split("\n") if line)
    return Prepared(stores["train"], stores.get("dev"), records, preflight, tuple(labels))


def _count_labels(store: TokenStore, names: Sequence[str], corpus: Corpus) -> dict[str, int]:
    counts = np.bincount(store["label"].tokens, minlength=len(names))
    found = {name: int(n) for name, n in zip(names, counts, strict=True) if n}
    if len(found) < 2:
        raise DataError(f'every example has the label "{next(iter(found))[:40]}"', where=", ".join(corpus.files),
                        fix="a classifier needs two labels or more")  # fmt: skip
    unseen = [name for name in names if name not in found]
    if unseen:
        corpus.verdicts.tally.note(f"labels of dev that train lacks: {', '.join(unseen[:5])}")
    return found


def _noticing_first(records: Iterable[Record], first: list[Record]) -> Iterator[Record]:
    for record in records:
        if not first:
            first.append(record)
        yield record


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    rest = iter(records)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


def _rows(flat: list[list[int]], width: int) -> Iterator[list[list[int]]]:
    return (flat[i : i + width] for i in range(0, len(flat), width))
