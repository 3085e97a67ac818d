"""Read examples from files of many formats, as Records: streaming, checked, each refusal with file and line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ciyuan.data.readers.files import COMPRESSIONS, check_file, suffixes
from ciyuan.data.readers.memories import read_po, read_tmx
from ciyuan.data.readers.objects import read_hub, read_jsonl, read_parquet
from ciyuan.data.readers.questions import read_squad
from ciyuan.data.readers.record import ANSWERS, CHATS, Columns, Record, Tally, same_language
from ciyuan.data.readers.tables import read_csv, read_moses, read_tsv
from ciyuan.data.readers.texts import read_documents
from ciyuan.errors import DataError, did_you_mean

__all__ = [
    "FORMATS", "Columns", "Record", "Tally", "read", "read_answers", "read_chats", "read_labelled", "read_pairs", "read_texts",
]  # fmt: skip

Reader = Callable[[str, Columns, Tally], Iterator[Record]]

FORMATS: dict[str, Reader] = {
    ".tsv": read_tsv,
    ".csv": read_csv,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".tmx": read_tmx,
    ".po": read_po,
    ".txt": read_documents,
    ".json": read_squad,
}
HOLDS: dict[str, tuple[str, tuple[str, ...]]] = {
    ".tmx": ("pairs", ("source", "target")),
    ".po": ("pairs", ("source", "target")),
    ".txt": ("one text", ("text",)),
    ".json": ("questions about passages", ANSWERS),
}
"""Formats that hold examples of one kind alone, and the roles of that kind."""


def read_pairs(
    paths: Iterable[str], source: str | None = None, target: str | None = None, *, group: str | None = None,
    tally: Tally | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Records with the fields "source" and "target". source, target: languages, which also name columns and files."""
    return read(paths, Columns({"source": source, "target": target}, group), tally)


def read_texts(
    paths: Iterable[str], text: str | None = None, *, group: str | None = None, tally: Tally | None = None
) -> Iterator[Record]:
    """Records with the field "text": a document, or a piece of a long one."""
    return read(paths, Columns({"text": text}, group), tally)


def read_labelled(
    paths: Iterable[str], text: str | None = None, label: str | None = None, *, second: str | None = None,
    label_separator: str | None = None, group: str | None = None, tally: Tally | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Records with the fields "text", with `second` also "second", and "label". A TSV without a header has them in this order.

    label_separator: where given, a text may have several labels, or none: a list, or a text in which it parts them; see
    `Record.labels`.
    """
    names = {"text": text, "label": label} if second is None else {"text": text, "second": second, "label": label}
    return read(paths, Columns(names, group, label_separator=label_separator), tally)


def read_answers(
    paths: Iterable[str], question: str | None = None, passage: str | None = None, answer: str | None = None, *,
    group: str | None = None, tally: Tally | None = None,
) -> Iterator[Record]:  # fmt: skip
    """Records with the fields "question", "passage" and "answer", empty where the passage does not hold it or a file has none.

    From SQuAD's .json, or tables with these columns ("context" and "answers" will do). The group is the passage unless it is said.
    """
    names = {"question": question, "passage": passage, "answer": answer}
    return read(paths, Columns(names, group, optional=frozenset({"answer"})), tally)


def read_chats(
    paths: Iterable[str], messages: str | None = None, *, group: str | None = None, tally: Tally | None = None
) -> Iterator[Record]:
    """Records of conversations: `turns`, and the field "chat" with all their words."""
    return read(paths, Columns({"chat": messages}, group), tally)


def read(paths: Iterable[str], columns: Columns, tally: Tally | None = None) -> Iterator[Record]:
    """The records of all files, in their order. What is passed over is counted in `tally`. Raises DataError."""
    tally = Tally() if tally is None else tally
    for corpus in corpora(paths, columns):
        if len(corpus) == 2:
            yield from read_moses(corpus, columns, tally)
        else:
            yield from _reader(corpus[0], columns)(corpus[0], columns, tally)


def corpora(paths: Iterable[str], columns: Columns) -> list[tuple[str] | tuple[str, str]]:
    """The files, those that differ only in their suffix (corpus.en corpus.zh) as one, source first.

    Refuses a file that is missing, of no known format or without its partner, before any is read.
    """
    paths = [os.fspath(path) for path in paths]
    result: list[tuple[str] | tuple[str, str]] = []
    taken: set[str] = set()
    for path in paths:
        if path in taken:
            continue
        taken.add(path)
        if path.startswith("hf:"):
            result.append((path,))
            continue
        check_file(path)
        stem, suffix, _ = suffixes(path)
        if suffix.lower() in FORMATS:
            _reader(path, columns)
            result.append((path,))
            continue
        partners = [p for p in paths if p != path and suffixes(p)[0] == stem and suffixes(p)[1].lower() not in FORMATS]
        if len(partners) != 1 or columns.roles != ("source", "target"):
            raise _unknown(path, stem, suffix, len(partners))
        taken.add(partners[0])
        check_file(partners[0])
        result.append(_source_first(path, partners[0], columns))
    return result


def _reader(path: str, columns: Columns) -> Reader:
    if path.startswith("hf:"):
        return read_hub
    suffix = suffixes(path)[1].lower()
    holds, roles = HOLDS.get(suffix, ("columns", columns.roles))
    if columns.roles == CHATS and suffix not in (".jsonl", ".parquet"):
        raise DataError(f"{suffix} holds no conversations", where=path, allowed="allowed: .jsonl .parquet")
    if columns.roles != roles:
        fix = "name parallel files by language: corpus.en corpus.zh" if columns.roles == ("source", "target") else None
        raise DataError(f"{suffix} holds {holds}", where=path, allowed=f"needed here: {' and '.join(columns.roles)}",
                        fix="one object a line? name the file .jsonl" if suffix == ".json" else fix)  # fmt: skip
    return FORMATS[suffix]


def _source_first(one: str, two: str, columns: Columns) -> tuple[str, str]:
    source, target = columns.names.values()
    first, second = suffixes(one)[1][1:], suffixes(two)[1][1:]

    def fits(name: str, wanted: str | None) -> bool:
        return wanted is None or same_language(name, wanted)

    if fits(first, source) and fits(second, target):
        return one, two
    if fits(second, source) and fits(first, target):
        return two, one
    raise DataError(f"{first} and {second} are not {source or 'any'} and {target or 'any'}", where=one,
                    fix="name the files by their languages, or set data.source and data.target")  # fmt: skip


def _unknown(path: str, stem: str, suffix: str, n_partners: int) -> DataError:
    if n_partners > 1:
        return DataError(f"{n_partners + 1} files differ only in their suffix", where=path, fix="give two of them")
    known = {*FORMATS, *COMPRESSIONS, ".json", ".md", suffix.lower(), ""}
    beside = sorted(
        str(other)
        for other in Path(stem).parent.iterdir()
        if suffixes(other.name)[0] == Path(stem).name and suffixes(other.name)[1].lower() not in known
    )
    guess = did_you_mean(suffix, [*FORMATS, *COMPRESSIONS]) if len(suffix) > 1 else None
    is_code = len(suffix) == 3  # .en, which is nearer to a language than to .json
    if beside and suffix and (is_code or not guess):
        guess = f"one of two parallel files? give {beside[0]} too"
    return DataError(f"{suffix or 'no suffix'} is not a format that is read", where=path,
                     allowed=f"allowed: {' '.join(FORMATS)}, each also {' '.join(COMPRESSIONS)}; "
                     "or two parallel files, corpus.en corpus.zh", fix=guess)  # fmt: skip
