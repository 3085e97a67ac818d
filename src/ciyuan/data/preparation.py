"""From files to token ids, once: check, encode, store, and say what became of every example.

CACHE/<key>/train/, dev/      token stores
            dev.jsonl         the dev examples as text, line i beside example i of dev/
            preflight.json    the counts, and the seals of the others; written last
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ciyuan.data.checks import Corpus, labels_of
from ciyuan.data.examples import AnswerForm, Encoder, Form, Making, kind_of
from ciyuan.data.folders import new_folder, one_at_a_time
from ciyuan.data.readers import Record
from ciyuan.data.store import StoreWriter, TokenStore, read_sealed, write_sealed
from ciyuan.errors import DataError

FORMAT = 2
HASH_ALL = 2**26
"""Bytes up to which a reused store is hashed whole, in a fraction of a second; of larger ones the sizes are compared."""


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
    """Examples by reason: "empty source", "duplicate", "also in dev", "too long", and what readers passed over ("fuzzy")."""
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
    supervised: int | None = None
    """Tokens that are learnt, where others are only read; None where the objective says that, or there is a label instead."""
    unanswerable: int = 0
    """Train examples whose passage does not hold the answer."""
    cached: bool = False

    @property
    def supervised_share(self) -> float | None:
        """Of all tokens those that are learnt, 0 … 1."""
        return None if self.supervised is None else self.supervised / max(1, sum(self.tokens.values()))

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
        share = self.supervised_share
        if share is not None:
            each = (self.supervised or 0) / max(1, self.examples)
            said.append(f"learnt: {self.supervised:,} tokens, {share:.1%} of all, {each:,.1f} an example; the others are read")
        if self.unanswerable:
            said.append(f"without an answer in the passage: {self.unanswerable:,} ({self.unanswerable / self.examples:.1%})")
        if self.dropped:
            n_dropped = sum(self.dropped.values())
            listed = ", ".join(f"{n:,} {reason}" for reason, n in self.dropped.items())
            said.append(f"dropped: {listed} ({n_dropped / (n_dropped + self.examples):.1%})")
        if self.truncated:
            said.append(f"truncated: {self.truncated:,} ({self.truncated / self.examples:.1%})")
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
    """Ready to train on. train, dev: columns as `data.examples` lists them.

    dev_records[i] is example i of dev as text, whole even where its tokens were truncated; by sentences, dev has a row for each
    of theirs. labels: by their id.
    """

    train: TokenStore
    dev: TokenStore | None
    dev_records: tuple[Record, ...]
    preflight: Preflight
    labels: tuple[str, ...] = ()


def prepare(
    corpus: Corpus, encoder: Encoder, cache: str | Path, *, words: bool = False, sentences: bool = False,
    answers: AnswerForm = "spans",
) -> Prepared:  # fmt: skip
    """Token ids of the corpus, made once and kept in the folder `cache`.

    words: of texts, a column "words" with 1 where a token begins a word. sentences: of texts, a row for each sentence instead of
    each document. answers: of a corpus of answers, whether they are pointed at ("spans"), or written by an encoder–decoder
    ("pairs") or a decoder ("prompted").
    What is kept is found again by the bytes of the data, the tokeniser and the settings that matter; if it is damaged, it
    is made again and a note says so. Raises DataError, and DiskError where it cannot be written.
    """
    form = Form(words=words, sentences=sentences, answers=answers)
    folder = Path(cache) / preparation_key(corpus, encoder, form)
    notes: tuple[str, ...] = ()
    if (kept := _reopen(folder, corpus)) is not None:
        return kept
    with one_at_a_time(folder):
        if (kept := _reopen(folder, corpus)) is not None:  # another process was at it and is done
            return kept
        if folder.exists():
            notes = (f"{folder}: the prepared data was damaged and has been made again",)
        with new_folder(folder, lambda path: _reopen(path, corpus) is not None) as draft:
            _write(draft, corpus, encoder, form)
    made = _reopen(folder, corpus)
    assert made is not None, folder
    preflight = dataclasses.replace(made.preflight, cached=False, notes=made.preflight.notes + notes)
    return dataclasses.replace(made, preflight=preflight)


def preparation_key(corpus: Corpus, encoder: Encoder, form: Form) -> str:
    """The name under which the corpus, encoded so, is kept."""
    settings = corpus.settings
    decisive = settings.model_dump(mode="json", exclude={"train"})
    if corpus.dev_files:
        decisive["dev"] = "files"
    made = dataclasses.asdict(form)
    whole = [FORMAT, corpus.shape, corpus.content, encoder.fingerprint, encoder.vocab_size, decisive, made]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]


def _write(draft: Path, corpus: Corpus, encoder: Encoder, form: Form) -> None:
    verdicts, kept = corpus.verdicts, list(corpus.dev)
    names = sorted({*verdicts.labels, *(name for record in kept for name in _labels(record, corpus))})
    labels = {name: i for i, name in enumerate(names)}
    first: list[Record] = []
    making = Making(corpus, encoder, form, labels, whole=False)
    train = _encode(draft / "train", _noticing_first(corpus.train(), first), making)
    dropped = {**verdicts.dropped, **train.dropped}
    if not len(train.store):
        listed = ", ".join(f"{n:,} {reason}" for reason, n in dropped.items())
        raise DataError("no example is left to train on", where=", ".join(corpus.files), allowed=f"dropped: {listed}",
                        fix="raise data.max_length or set data.too_long: truncate")  # fmt: skip
    kind = kind_of(corpus, form)
    label_counts = _count_labels(train.store, names, corpus) if corpus.shape == "labelled" else {}
    dev_tokens: dict[str, int] = {}
    dev_cut, seals = 0, {"train": train.store.fingerprint}
    if kept:
        dev = _encode(draft / "dev", kept, dataclasses.replace(making, whole=True))
        dev_tokens = {name: dev.store.n_tokens(name) for name in kind.texts}
        dev_cut, seals["dev"] = dev.truncated, dev.store.fingerprint
    text = "".join(_as_line(record) for record in kept).encode()
    (draft / "dev.jsonl").write_bytes(text)
    seals["dev.jsonl"] = hashlib.sha256(text).hexdigest()
    preflight = Preflight(
        files=corpus.files,
        records=len(verdicts.codes),
        examples=train.examples,
        tokens={name: train.store.n_tokens(name) for name in kind.texts},
        longest={name: int(train.store.lengths(name).max()) for name in kind.texts},
        dropped=dropped,
        truncated=train.truncated,
        dev_examples=len(kept),
        dev_tokens=dev_tokens,
        dev_truncated=dev_cut,
        first_leak=verdicts.first_leak,
        notes=tuple(verdicts.tally.notes),
        labels=label_counts,
        example=dict(first[0].fields),
        supervised=train.supervised if kind.learns else None,
        unanswerable=train.unanswerable,
    )
    write_sealed(
        draft / "preflight.json", {"seals": seals, "labels": names, "preflight": dataclasses.asdict(preflight)}
    )


@dataclass(frozen=True)
class _Encoded:
    """A store and what became of the records. examples: those that are in it."""

    store: TokenStore
    examples: int
    dropped: dict[str, int]
    truncated: int
    supervised: int
    unanswerable: int


def _encode(folder: Path, records: Iterable[Record], making: Making) -> _Encoded:
    """Write a store of the records."""
    kind = kind_of(making.corpus, making.form)
    limits = {"token": making.encoder.vocab_size, "number": 2**32, "flag": 2}
    dropped: Counter[str] = Counter()
    examples = truncated = supervised = unanswerable = 0
    meta = {"tokenizer": making.encoder.fingerprint, "labels": list(making.labels)}
    with StoreWriter(folder, {name: limits[holds] for name, holds in kind.columns.items()}, meta) as writer:
        for made in kind.make(records, making):
            if made.dropped is not None:
                dropped[made.dropped] += 1
                continue
            for row in made.rows:
                writer.append(*row)
            examples, truncated, supervised = examples + 1, truncated + made.truncated, supervised + made.supervised
            unanswerable += made.unanswerable
    return _Encoded(TokenStore.open(folder), examples, dict(dropped), truncated, supervised, unanswerable)


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
    records = tuple(_of_line(line) for line in text.decode().split("\n") if line)
    return Prepared(stores["train"], stores.get("dev"), records, preflight, tuple(labels))


def _count_labels(store: TokenStore, names: Sequence[str], corpus: Corpus) -> dict[str, int]:
    counts = np.bincount(store["label"].tokens, minlength=len(names))
    found = {name: int(n) for name, n in zip(names, counts, strict=True) if n}
    if len(found) < 2 and (corpus.columns.label_separator is None or not found):
        raise DataError(f'every example has the label "{next(iter(found), "")[:40]}"', where=", ".join(corpus.files),
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


def _labels(record: Record, corpus: Corpus) -> tuple[str, ...]:
    return labels_of(record, corpus) if corpus.shape == "labelled" else ()


def _as_line(record: Record) -> str:
    return json.dumps([getattr(record, field.name) for field in dataclasses.fields(record)], ensure_ascii=False) + "\n"


def _of_line(line: str) -> Record:
    """What `_as_line` wrote."""
    fields, file, line_number, group, lines, answers, start, turns = json.loads(line)
    return Record(fields, file, line_number, group, lines, tuple(answers), start, tuple((who, words) for who, words in turns))
