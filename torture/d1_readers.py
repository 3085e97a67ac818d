"""Generated files, whole and spoiled, through every reader: what is whole comes back, what is not is refused in three lines.

A third of the files are whole: every example must come back as it was. A third have one byte that is not UTF-8, in a line of their
own where the format has lines: refused, with file and line. The rest are spoiled at random, plain and inside their compression.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ciyuan.data.readers import tables
from ciyuan.errors import DataError
from torture.files import COMPRESS, FORMATS, Format, HungError, limited, read_all, rows, splintered, write
from torture.harness import Case, Tally, broken, replaced


def run(tally: Tally) -> None:
    with broken(MUTANTS, tally.mutant):
        names = list(FORMATS)
        for case in tally.cases(len(names) * tally.size(fast=60, full=50_000)):
            _one(tally, case, FORMATS[names[case.number % len(names)]], case.number // len(names) % 3)


def _one(tally: Tally, case: Case, form: Format, kind: int) -> None:
    draw = case.draw
    made = rows(draw, form.columns.roles, draw.randint(1, 12))
    compression = draw.choice(["", "", *COMPRESS])
    line = draw.randrange(len(made)) + 1
    if kind == 1 and not form.by_line:
        kind = 2
    spoil = {0: bytes, 1: lambda raw: _bad_byte(raw, line), 2: lambda raw: splintered(draw, raw)}[kind]
    paths = write(case.folder, form, made, compression, spoil)
    if kind == 2 and draw.random() < 0.3:
        from pathlib import Path

        place = Path(paths[0])
        place.write_bytes(splintered(draw, place.read_bytes()))
    began = time.monotonic()
    try:
        with limited():
            found = read_all(paths, form)
    except DataError as error:
        if kind == 0:
            tally.fail(case, f"a whole file was refused: {error}")
        elif len(str(error).splitlines()) > 3 or "data." not in str(error):
            tally.fail(case, f"does not name the file in three lines: {error}")
        elif kind == 1 and f"{paths[0]}:{line}" not in str(error):
            tally.fail(case, f"the bad byte is in line {line}, and it says: {error}")
        elif not str(error).isprintable() and any(not char.isprintable() and char != "\n" for char in str(error)):
            tally.fail(case, f"control characters in the message: {error!r}")
    except HungError:
        tally.fail(case, "hung")
    except BaseException as error:  # noqa: BLE001 (whatever else it is, it is a defect)
        tally.fail(case, f"{type(error).__name__}: {error}")
    else:
        texts = [list(record.fields.values()) for record in found]
        if kind == 1:
            tally.fail(case, f"read {len(found)} examples of a file that is not UTF-8")
        elif kind == 0 and form is not FORMATS["chats"] and texts != [_expected(row) for row in made]:
            tally.fail(case, f"{texts} instead of {made}")
    tally.see("seconds", time.monotonic() - began)


def _expected(row: dict[str, str]) -> list[str]:
    return list(row.values())


def _bad_byte(raw: bytes, line: int) -> bytes:
    lines = raw.split(b"\n")
    lines[line - 1] = lines[line - 1][:1] + b"\xff" + lines[line - 1][1:]
    return b"\n".join(lines)


def _lines_as_python_has_them(path: str, refuse: Any = None) -> Iterator[tuple[int, str]]:
    with open(path, encoding="utf-8") as stream:  # noqa: PTH123
        yield from enumerate(stream.read().splitlines(), start=1)


def _lines_in_silence(path: str, refuse: Any = None) -> Iterator[tuple[int, str]]:
    from ciyuan.data.readers.files import open_bytes

    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, line.decode(errors="ignore").rstrip("\n")


@contextmanager
def _mutant(reader: Any) -> Iterator[None]:
    with replaced(tables, "read_lines", reader):
        yield


MUTANTS = {
    "a reader that raises Python's own errors": lambda: _mutant(_lines_as_python_has_them),
    "a reader that leaves bad bytes out in silence": lambda: _mutant(_lines_in_silence),
}
