"""What only the bytes of a file tell: its line ends and its byte order mark."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from ciyuan.data.readers.files import MAX_LINE, open_bytes, suffixes
from ciyuan.doctor.findings import Finding, excerpt

BINARY = frozenset({".parquet"})


def look_at_bytes(path: str) -> Iterator[Finding]:
    """Findings about a text file as a whole, and each line that ends otherwise than most. Raises DataError."""
    suffix = suffixes(path)[1].lower()
    if path.startswith("hf:") or suffix in BINARY:
        return
    counts, first = {b"\n": 0, b"\r\n": 0}, b""
    with open_bytes(path) as stream:
        first = stream.peek(4)[:4]
        while raw := stream.readline(MAX_LINE):
            if raw.endswith(b"\n"):
                counts[_end(raw)] += 1
    if first.startswith(codecs.BOM_UTF8):
        yield Finding("byte-order-mark", path, 1, note="at the start of the file")
    if all(counts.values()):
        rare = min(counts, key=lambda end: counts[end])
        yield from _lines_ending(path, rare)


def _lines_ending(path: str, wanted: bytes) -> Iterator[Finding]:
    with open_bytes(path) as stream:
        number, begins = 0, True
        while raw := stream.readline(MAX_LINE):
            number += begins
            begins = raw.endswith(b"\n")
            if begins and _end(raw) == wanted:
                name = "CR LF" if wanted == b"\r\n" else "LF"
                yield Finding(
                    "line-ends", path, number, excerpt(raw.decode(errors="replace").rstrip("\r\n")), f"ends in {name}"
                )


def _end(raw: bytes) -> bytes:
    return b"\r\n" if raw.endswith(b"\r\n") else b"\n"
