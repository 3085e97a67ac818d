"""Running text: documents parted by blank lines."""

from __future__ import annotations

from collections.abc import Iterator

from ciyuan.data.readers.files import read_lines
from ciyuan.data.readers.record import Columns, Record, Tally
from ciyuan.errors import DataError

PIECE = 2**16
"""Characters after which a long document goes on in a further record, so that memory does not grow with it."""


def read_documents(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    r"""Plain text; one or more blank lines part documents, each a `group` of its own.

    A document is one record, or several for one longer than PIECE: joined without a separator, they are the document,
    lines parted by \n.
    """
    if columns.group is not None:
        raise DataError("plain text has no columns, so none by which to group", where=path,
                        fix="leave data.group out: blank lines part documents")  # fmt: skip
    document, start, size = 1, 0, 0
    lines: list[str] = []

    def record(end: str) -> Record:
        return Record({columns.roles[0]: "\n".join(lines) + end}, path, start, f"{path}#{document}", len(lines))

    for number, line in read_lines(path, tally.refuse):
        if not line or line.isspace():
            if lines:
                yield record("")
                lines, size, document = [], 0, document + 1
        else:
            if size + len(line) > PIECE and lines:
                yield record("\n")
                lines, size = [], 0
            if not lines:
                start = number
            lines.append(line)
            size += len(line) + 1
    if lines:
        yield record("")
