"""Data files for the data harnesses: whole ones of every format, and what can be wrong with one."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import zstandard

from ciyuan.data.readers import Columns, Record, Tally, read
from ciyuan.data.readers.record import ANSWERS, CHATS

WORDS = [
    "red", "dog", "sees", "a", "big", "bird", "the", "fox", "over", "lazy", "红", "狗", "看见", "大鸟", "东西", "naïve",
    "Ωmega", "x" * 40,
    "I", "10", "3.5", "½", "🙂", "e\u0301", "\u3000", "<b>", "&amp;", '"', "'", ";", "%s", "{0}", "#", "\\", "\u2028", "\u00a0",
]  # fmt: skip
SPLINTERS: list[bytes] = [
    b"\xff", b"\xc3", b"\xe4\xb8", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\r\n", b"\n", b"\n\n",
    b"\t", b",",
    b'"', b'""', b"'", b"\\", b"\\u0000", b"\\ud800", b"\\n", b"{", b"}", b"[", b"]", b":", b"null", b"true", b"-1",
    b"1e999", b"NaN", b"<",
    b">", b"</tu>", b"<tuv>", b"&", b"&#0;", b"&x;", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"<![CDATA[", b"]]>", b"msgid",
    b"msgstr", b"#~ ",
    b"#, fuzzy\n", b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"[" * 3000, b"{" * 3000, b'{"a":' * 800, b" " * 300,
    b"\xe2\x80\xa8", b"\x85",
    b"\x1a", b"\x7f", b"a" * 5000,
]  # fmt: skip
COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda raw: gzip.compress(raw, 1),
    ".xz": lambda raw: lzma.compress(raw, preset=0),
    ".zst": lambda raw: zstandard.ZstdCompressor(level=1).compress(raw),
}
LIMIT = 5
"""Seconds that a reader may take."""


@dataclass(frozen=True)
class Format:
    """write: the bytes of a whole file of these rows. by_line: an example is a line, so that a fault has a line of its own."""

    suffix: str
    columns: Columns
    write: Callable[[list[dict[str, str]]], bytes]
    by_line: bool = False


def text(draw: random.Random, most: int = 9) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most))).strip("\u2028 \u3000\u00a0") or "x"


def rows(draw: random.Random, roles: tuple[str, ...], n: int) -> list[dict[str, str]]:
    made = [{role: text(draw).replace("\u2028", "") for role in roles} for _ in range(n)]
    for row in made:
        if "label" in row:
            row["label"] = draw.choice("abc")
        if "answer" in row:
            row["answer"] = row["passage"].split(" ")[0]
    return made


def _lines(made: list[dict[str, str]], line: Callable[[dict[str, str]], str]) -> bytes:
    return "".join(line(row) + "\n" for row in made).encode()


def _csv(made: list[dict[str, str]]) -> bytes:
    header = ",".join(made[0])
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in made]
    return "\n".join([header, *quoted, ""]).encode()


def _tmx(made: list[dict[str, str]]) -> bytes:
    def side(language: str, words: str) -> str:
        return f"<tuv xml:lang={quoteattr(language)}><seg>{escape(words)}</seg></tuv>"

    units = "".join(f"<tu>{side('en', row['source'])}{side('zh', row['target'])}</tu>\n" for row in made)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<tmx version="1.4"><header/><body>\n{units}</body></tmx>\n'.encode()
    )


def _po(made: list[dict[str, str]]) -> bytes:
    def quoted(words: str) -> str:
        return '"' + words.replace("\\", "\\\\").replace('"', '\\"') + '"'

    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    return (
        head + "".join(f"msgid {quoted(row['source'])}\nmsgstr {quoted(row['target'])}\n\n" for row in made)
    ).encode()


def _parquet(made: list[dict[str, str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({role: [row[role] for row in made] for role in made[0]}), sink)
    return bytes(sink.getvalue())


def _squad(made: list[dict[str, str]]) -> bytes:
    asked = [
        {
            "context": row["passage"],
            "qas": [{"question": row["question"], "answers": [{"text": row["answer"], "answer_start": 0}]}],
        }
        for row in made
    ]
    return json.dumps({"data": [{"paragraphs": asked}]}, ensure_ascii=False).encode()


def _chats(made: list[dict[str, str]]) -> bytes:
    return _lines(made, lambda row: json.dumps({"messages": [
        {"role": "user", "content": row["chat"]}, {"role": "assistant", "content": "yes"}]}, ensure_ascii=False))  # fmt: skip


PAIRS = Columns({"source": "en", "target": "zh"})
FREE = Columns({"source": None, "target": None})
FORMATS: dict[str, Format] = {
    "tsv": Format(".tsv", FREE, lambda made: _lines(made, lambda row: "\t".join(row.values())), by_line=True),
    "csv": Format(".csv", FREE, _csv),
    "jsonl": Format(".jsonl", FREE, lambda made: _lines(made, lambda row: json.dumps(row, ensure_ascii=False)), by_line=True),
    "txt": Format(".txt", Columns({"text": None}), lambda made: _lines(made, lambda row: row["text"] + "\n")),
    "parallel": Format(".en", PAIRS, lambda made: _lines(made, lambda row: row["source"]), by_line=True),
    "tmx": Format(".tmx", FREE, _tmx),
    "po": Format(".po", FREE, _po),
    "parquet": Format(".parquet", FREE, _parquet),
    "squad": Format(".json", Columns(dict.fromkeys(ANSWERS), optional=frozenset({"answer"})), _squad),
    "chats": Format(".jsonl", Columns(dict.fromkeys(CHATS)), _chats, by_line=True),
    "labelled": Format(".jsonl", Columns({"text": None, "label": None}, label_separator=","),
                       lambda made: _lines(made, json.dumps), by_line=True),
}  # fmt: skip


def write(
    folder: Path, form: Format, made: list[dict[str, str]], compression: str, spoil: Callable[[bytes], bytes]
) -> list[str]:
    """The files of these rows, spoiled before they are compressed; of parallel files the first is."""
    path = folder / f"data{form.suffix}{compression}"
    path.write_bytes(COMPRESS[compression](spoil(form.write(made))))
    if form.suffix != ".en":
        return [str(path)]
    other = folder / f"data.zh{compression}"
    other.write_bytes(COMPRESS[compression](_lines(made, lambda row: row["target"])))
    return [str(path), str(other)]


def splintered(draw: random.Random, raw: bytes) -> bytes:
    """The bytes with something put in, taken out, doubled or turned over, once or a few times."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        at, size = draw.randrange(len(raw) + 1), draw.choice((1, 1, 2, 7, 50, 400))
        kind = draw.randrange(6)
        if kind < 2:
            raw = raw[:at] + draw.choice(SPLINTERS) + raw[at:]
        elif kind == 2:
            raw = raw[:at] + raw[at + size :]
        elif kind == 3:
            raw = raw[:at] + raw[at : at + size] * 2 + raw[at + size :]
        elif kind == 4 and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
        else:
            raw = raw[:at]
    return raw


def read_all(paths: list[str], form: Format, tally: Tally | None = None) -> list[Record]:
    return list(read(paths, form.columns, tally))


class HungError(BaseException):
    """Past every `except Exception`."""


@contextmanager
def limited(seconds: int = LIMIT) -> Iterator[None]:
    """Raises HungError in the block after so long."""
    assert threading.current_thread() is threading.main_thread()

    def ring(number: int, frame: FrameType | None) -> Any:
        raise HungError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
