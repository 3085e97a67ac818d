"""Lines in, lines out: UTF-8, checked, as they come, and split at line feeds alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ciyuan.errors import DataError

FIRST_CHUNK, LAST_CHUNK = 16, 512
"""Lines answered together: few at first, so that the first answers come soon; many later, so that they come fast."""


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # stderr is closed: there is no one to tell


def answer(text: str) -> None:
    """A line of the result, on stdout."""
    print(text)


def answer_json(value: Any, *, file: IO[str] | None = None) -> None:
    """A JSON object as a line of the result."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), file=file)


def printable(text: str) -> str:
    """Text from a file or an argument, safe on a terminal: control characters are shown, not obeyed."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def chunks(texts: Sequence[str], path: str | None) -> Iterator[list[str]]:
    """The lines to work on, in chunks: those given as arguments, or those of a file, or else those of stdin as they arrive."""
    if texts and path is not None:
        raise DataError("text came both as an argument and with --input", fix="give one of the two")
    if texts:
        lines: Iterable[list[str]] = [[line for text in texts for line in _split_argument(text)]]
    else:
        lines = _read(path)
    size, kept = FIRST_CHUNK, list[str]()
    for some in lines:
        kept += some
        while kept:  # what has arrived is answered before more is awaited
            yield kept[:size]
            kept = kept[size:]
            size = min(2 * size, LAST_CHUNK)


def _split_argument(text: str) -> list[str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("an argument is not UTF-8 text", fix="give the text in a file with --input") from None
    lines = text.split("\n")
    return lines[:-1] if len(lines) > 1 and not lines[-1] else lines


def _read(path: str | None) -> Iterator[list[str]]:
    """The complete lines of each read: of a file 64 KB at a time, of a pipe or a keyboard as much as is there."""
    name = "stdin" if path in (None, "-") else str(path)
    if name == "stdin":
        if sys.stdin is None:
            raise DataError("there is no text", fix="give it as an argument, with --input, or on stdin")
        if sys.stdin.isatty():
            say("reading lines from the keyboard; Ctrl-D ends")
        descriptor = sys.stdin.fileno()
    else:
        try:
            descriptor = os.open(name, os.O_RDONLY)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=name) from None
    number, offset, rest = 0, 0, b""
    try:
        while True:
            try:
                data = os.read(descriptor, 65536)
            except OSError as error:
                raise DataError(f"cannot be read: {error.strerror}", where=name) from None
            *complete, rest = (rest + data).split(b"\n") if data else [*([rest] if rest else []), b""]
            lines = []
            for line in complete:
                number += 1
                lines.append(_decoded(line, name, number, offset))
                offset += len(line) + 1
            if lines:
                yield lines
            if not data:
                return
    finally:
        if name != "stdin":
            os.close(descriptor)


def _decoded(line: bytes, name: str, number: int, offset: int) -> str:
    try:
        text = line.removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {offset + error.start} (0x{line[error.start]:02x}) is not UTF-8", where=f"{name}:{number}",
            fix="save the text as UTF-8",
        ) from None  # fmt: skip
    return text.removeprefix("\ufeff") if number == 1 else text


def open_output(path: str | None) -> IO[str]:
    """Where results go: stdout, or a new file. A file that exists is not overwritten."""
    if path in (None, "-"):
        return sys.stdout
    assert path is not None
    try:
        return Path(path).open("x", encoding="utf-8", newline="\n")
    except FileExistsError:
        raise DataError("exists already, and nothing is overwritten", where=path, fix="name another file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be written: {getattr(error, 'strerror', None) or error}", where=path) from None
