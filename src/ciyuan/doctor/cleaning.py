"""Write a cleaned copy: what is safe to leave out is left out, what is safe to mend is mended, and each is counted.

A table, JSON lines, plain text and parallel files stay what they are, line for line. Of other formats the examples are written as
JSON lines.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

from ciyuan.data.checks import Corpus, Shape
from ciyuan.data.folders import saying_disk_errors
from ciyuan.data.readers import Tally, corpora
from ciyuan.data.readers.files import read_lines, suffixes
from ciyuan.data.settings import DataSettings
from ciyuan.doctor import characters
from ciyuan.doctor.examination import Examination, tolerant
from ciyuan.doctor.findings import Findings
from ciyuan.errors import DataError

BY_LINE = frozenset({".tsv", ".jsonl", ".txt"})


def clean(settings: DataSettings, shape: Shape, examined: Examination, out: str) -> dict[str, int]:
    """Write OUT, or OUT.en and OUT.zh of parallel files, and give back how many examples were dropped or mended, by kind.

    Raises DataError where OUT exists or its name does not fit, and DiskError; then nothing is left of it.
    """
    check_output(settings, shape, out)
    sources = _sources(settings, shape)
    targets = _targets(sources, out)
    counts: Counter[str] = Counter()
    drafts = [Path(f"{target}.tmp-{os.getpid()}") for target in targets]
    try:
        with saying_disk_errors(Path(targets[0])), ExitStack() as stack:
            streams = [stack.enter_context(_open(draft, target)) for draft, target in zip(drafts, targets, strict=True)]
            if _suffix(targets[0]) == ".jsonl" and _suffix(sources[0]) != ".jsonl":
                _write_records(settings, shape, examined, streams[0], counts)
            else:
                _write_lines(sources, examined, streams, counts)
        with saying_disk_errors(Path(targets[0])):
            for draft, target in zip(drafts, targets, strict=True):
                _name(draft, target)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
    return dict(counts)


def check_output(settings: DataSettings, shape: Shape, out: str) -> None:
    """Refuse a name that `clean` could not write, before anything is examined."""
    for target in _targets(_sources(settings, shape), out):
        if os.path.lexists(target):
            raise _exists(target)
        if not (Path(target).parent).is_dir():
            raise DataError(
                "no such folder", where=str(Path(target).parent), fix="make it first, or name another place"
            )


def _name(draft: Path, target: str) -> None:
    """Give the draft its name; unlike a rename, a link does not overwrite what took that name meanwhile."""
    try:
        os.link(draft, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a disk without links
        draft.rename(target)


def mend(text: str, *, indented: bool = False) -> tuple[str, list[str]]:
    r"""The text with what is safe to mend mended, and the kinds of what was. indented: spaces around it mean something.

    >>> mend("caf\u00c3\u00a9 \u200bＡ1")
    ('café A1', ['mojibake', 'invisible', 'width'])
    """
    kinds = []
    for kind, cure in CURES:
        if indented and kind == "spacing":
            continue
        cured = cure(text)
        if cured != text:
            kinds.append(kind)
            text = cured
    return text, kinds


def _decoded(text: str) -> str:
    if characters.mojibake(text) is None:
        return text
    import ftfy

    mended = ftfy.fix_encoding(text)
    return mended if characters.mojibake(mended) is None and not characters.LOST.search(mended) else text


def _half_width(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match[0])


def _trimmed(text: str) -> str:
    return characters.ODD_SPACE.sub(" ", text).strip(" \t\u3000\u00a0")


CURES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("mojibake", _decoded),
    ("byte-order-mark", lambda text: text.replace("\ufeff", "")),
    ("control", lambda text: text if characters.control(text) is None else re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", re.sub(
        "[\u2028\u2029]", " ", text))),
    ("invisible", lambda text: text if characters.invisible(text) is None else characters.INVISIBLE.sub("", text)),
    ("decomposed", lambda text: unicodedata.normalize("NFC", text)),
    ("width", lambda text: characters.FULL_WIDTH.sub(_half_width, text)),
    ("spacing", _trimmed),
)  # fmt: skip
"""What is done, and as which kind it counts, in this order."""


def _write_lines(sources: tuple[str, ...], examined: Examination, streams: list[IO[str]], counts: Counter[str]) -> None:
    groups: list[tuple[str, ...]] = [sources] if len(streams) > 1 else [(source,) for source in sources]
    for group in groups:
        documents = _suffix(group[0]) == ".txt"
        left_out = False  # of plain text a document is left out up to its end
        for rows in zip(*(read_lines(path, lambda error: None) for path in group), strict=False):
            places = [(path, number) for path, (number, _) in zip(group, rows, strict=True)]
            kind = next((examined.dropped[place] for place in places if place in examined.dropped), None)
            if kind is not None:
                counts[kind] += 1
            if documents:
                left_out = bool(rows[0][1].strip()) and (left_out or kind not in (None, "unreadable"))
            if kind is None and not left_out:
                for stream, (_, line) in zip(streams, rows, strict=True):
                    stream.write(_mended_line(line, _suffix(group[0]), counts) + "\n")


def _mended_line(line: str, suffix: str, counts: Counter[str]) -> str:
    if suffix == ".tsv":
        return "\t".join(_counted(cell, counts) for cell in line.split("\t"))
    if suffix == ".jsonl" and line.strip():
        return json.dumps(_mended_value(json.loads(line), counts), ensure_ascii=False)
    return _counted(line, counts, indented=suffix == ".txt")


def _mended_value(value: Any, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        return _counted(value, counts)
    if isinstance(value, list):
        return [_mended_value(one, counts) for one in value]
    if isinstance(value, dict):
        # What stands at a place counted in characters must not move.
        counted = "answer_start" in value or "answers" in value
        return value if counted else {key: _mended_value(one, counts) for key, one in value.items()}
    return value


def _counted(text: str, counts: Counter[str], *, indented: bool = False) -> str:
    mended, kinds = mend(text, indented=indented)
    counts.update(kinds)
    return mended


def _write_records(
    settings: DataSettings, shape: Shape, examined: Examination, stream: IO[str], counts: Counter[str]
) -> None:
    corpus = Corpus(settings, shape)
    for record in tolerant(corpus.files, corpus.columns, Tally(), Findings()):
        kind = examined.dropped.get((record.file, record.line))
        if kind is not None:
            counts[kind] += 1
            continue
        row: dict[str, Any] = dict(record.fields)
        if record.turns:
            row = {"messages": [{"role": role, "content": words} for role, words in record.turns]}
        elif shape == "answers":
            row["answers"] = {"text": list(record.answers), "answer_start": [record.start] if record.start >= 0 else []}
            del row["answer"]
        elif corpus.columns.label_separator is not None:
            row["label"] = list(record.labels)
        if shape != "answers":
            row = _mended_value(row, counts)
        if settings.group is not None and record.group is not None:
            row[settings.group] = record.group
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _sources(settings: DataSettings, shape: Shape) -> tuple[str, ...]:
    corpus = Corpus(settings, shape)
    found = corpora(corpus.files, corpus.columns)
    if any(len(one) == 2 for one in found) and len(found) > 1:
        raise DataError("--fix takes one pair of parallel files, or files that are none", fix="clean them one by one")
    return tuple(path for one in found for path in one)


def _targets(sources: tuple[str, ...], out: str) -> list[str]:
    if len(sources) == 2 and _suffix(sources[0]) not in KNOWN:
        return [out + suffixes(path)[1] for path in sources]
    wanted = {_suffix(source) if _suffix(source) in BY_LINE else ".jsonl" for source in sources}
    allowed = {".jsonl"} if len(wanted) > 1 else wanted | {".jsonl"}
    if _suffix(out) not in allowed:
        raise DataError(f"{_suffix(out) or 'no suffix'} is not what the cleaned copy can be written as", where=out,
                        allowed=f"allowed: {' or '.join(sorted(allowed))}, each also .gz .xz .zst")  # fmt: skip
    return [out]


KNOWN = frozenset({".tsv", ".csv", ".jsonl", ".parquet", ".tmx", ".po", ".txt", ".json"})


def _suffix(path: str) -> str:
    return "" if path.startswith("hf:") else suffixes(path)[1].lower()


def _exists(path: str) -> DataError:
    return DataError("exists already, and nothing is overwritten", where=path, fix="name another file")


def _open(draft: Path, name: str) -> IO[str]:
    compression = suffixes(name)[2]
    if compression == ".gz":
        return cast(IO[str], gzip.open(draft, "xt", encoding="utf-8", newline="\n"))
    if compression == ".xz":
        return cast(IO[str], lzma.open(draft, "xt", encoding="utf-8", newline="\n"))
    if compression == ".zst":
        import zstandard

        return cast(IO[str], zstandard.open(draft, "xt", encoding="utf-8", newline="\n"))
    return draft.open("x", encoding="utf-8", newline="\n")
