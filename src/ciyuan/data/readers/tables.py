"""Lines of columns: TSV, CSV and parallel files whose lines are partners (Moses)."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator

from ciyuan.data.readers.files import MAX_LINE, read_lines
from ciyuan.data.readers.record import Columns, Record, Tally, find, finished, from_rows, resolve
from ciyuan.errors import DataError


class NotParallelError(DataError):
    """Two files whose lines should be partners, and one has more of them."""


def read_tsv(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """Columns parted by tabs, nothing quoted. A first line that names the wanted columns is a header.

    Without one, the first columns play the roles in their order. Every line must have as many columns as the first.
    """
    lines = read_lines(path, tally.refuse)
    number, first = next(lines)
    cells = first.split("\t")
    needed = [role for role in columns.roles if role not in columns.optional]
    is_header = all(find(role, columns.names[role], cells) for role in needed)
    if columns.group is not None and not is_header:
        raise DataError(
            f'no header, so no column "{columns.group}" by which to group',
            where=f"{path}:{number}",
            fix=f"write one: {', '.join(name or role for role, name in columns.names.items())}, {columns.group}",
        )
    if is_header:
        chosen = resolve(columns, cells, f"{path}:{number}")
        tally.note(f"{path}: the first line is a header; " + ", ".join(f"{r} = {n}" for r, n in chosen.items()))
        places = {role: cells.index(name) for role, name in chosen.items()}
    else:
        places = {role: i for i, role in enumerate(columns.roles)}
        lines = itertools.chain([(number, first)], lines)
    width = len(cells)
    if not is_header:
        places = {role: i for role, i in places.items() if i < width or role in needed}
    if width < len(places):
        raise DataError(
            f"the first line has {_counted(width, 'column')}", where=f"{path}:{number}",
            allowed=f"a line is {' <tab> '.join(columns.roles)}, or the first names its columns",
            fix="are the columns parted by tabs? a comma-separated file ends in .csv",
        )  # fmt: skip
    if not is_header and width > len(places):
        tally.note(f"{path}: {_counted(width, 'column')} without a header; the first are {' and '.join(places)}")
    group = places.pop("group", None)
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != width:
            tally.refuse(DataError(
                f"{_counted(len(cells), 'column')} where the first line has {width}", where=f"{path}:{number}",
                allowed="every line has the same columns, parted by one tab each",
                fix="an empty line?" if not line else None,
            ))  # fmt: skip
            continue
        fields = {role: cells[i] for role, i in places.items()}
        yield finished(Record(fields, path, number, None if group is None else cells[group]), columns)


def read_csv(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """Comma-separated values, quoted with "…" and "" where needed. The first line names the columns."""
    # The one limit of the csv module is global; a lower one refuses long quoted texts, none lets one lost quote eat all.
    csv.field_size_limit(MAX_LINE)
    current = 0

    def numbered() -> Iterator[str]:
        nonlocal current
        for number, line in read_lines(path, tally.refuse):
            current = number
            yield line + "\n"

    def rows() -> Iterator[tuple[int, dict[str, object]]]:
        reader = csv.reader(numbered(), strict=True)
        start = 1
        header: list[str] | None = None
        try:
            for cells in reader:
                if header is None:
                    header = _checked_header(cells, path)
                    resolve(columns, header, f"{path}:1")
                elif len(cells) != len(header):
                    if cells:
                        tally.refuse(DataError(f"{_counted(len(cells), 'column')} where the header has {len(header)}",
                                               where=f"{path}:{start}", fix="is a comma or a quote not quoted?"))  # fmt: skip
                else:
                    yield start, dict(zip(header, cells, strict=True))
                start = current + 1
        except csv.Error as error:
            raise DataError(f"cannot be read as CSV: {error}", where=f"{path}:{start}",
                            fix='is a quote not closed? a quote inside a field is written ""') from None  # fmt: skip

    return from_rows(rows(), path, columns, tally)


def read_moses(paths: tuple[str, str], columns: Columns, tally: Tally) -> Iterator[Record]:
    """Two files, source and target, whose lines are partners. Refused unless they have as many lines."""
    if columns.group is not None:
        raise DataError("parallel files have no columns, so none by which to group", where=paths[0],
                        fix="leave data.group out, or use .tsv with a header or .jsonl")  # fmt: skip
    one, two = (read_lines(path, tally.refuse) for path in paths)
    roles = columns.roles
    for left, right in itertools.zip_longest(one, two):
        if left is None or right is None:
            lacking, rest, begun = (paths[0], two, right) if left is None else (paths[1], one, left)
            assert begun is not None
            long, short = begun[0] + sum(1 for _ in rest), begun[0] - 1
            counts = (short, long) if left is None else (long, short)
            tally.refuse(
                NotParallelError(
                    f"{paths[0]} has {_counted(counts[0], 'line')}, {paths[1]} has {counts[1]}: they are not parallel",
                    where=f"{lacking}:{begun[0]}",
                    allowed=f"line {begun[0]} is the first without a partner, though lines may be missing before it",
                    fix="mend the files; nothing is guessed",
                )
            )
            return
        yield Record({roles[0]: left[1], roles[1]: right[1]}, paths[0], left[0])


def _checked_header(cells: list[str], path: str) -> list[str]:
    repeated = {name for name in cells if cells.count(name) > 1}
    if repeated:
        raise DataError(f'the header names "{min(repeated)}" twice', where=f"{path}:1")
    if len(cells) == 1 and (";" in cells[0] or "\t" in cells[0]):
        raise DataError("the header has one column; is the file parted by semicolons or tabs?", where=f"{path}:1",
                        fix="part the columns by commas, or by tabs and name the file .tsv")  # fmt: skip
    return cells


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
