"""What kind of examples files hold, told by their names, their columns and a few of their lines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

from ciyuan.data.checks import Shape
from ciyuan.data.readers.files import check_file, plain_file, read_lines, suffixes
from ciyuan.data.readers.record import looks_like_a_language
from ciyuan.errors import DataError

PEEKED = 400
"""Lines of a table without a header that are looked at."""
MOST_LABELS = 60
SAME_LABEL = 8
"""How many of these lines share a label, on average, where the last column holds labels."""


def guess_shape(files: Sequence[str]) -> Shape:
    """Raises DataError where it cannot be told: what the examples are is then for the user to say."""
    path = files[0]
    suffix = suffixes(path)[1].lower()
    if suffix in (".tmx", ".po"):
        return "pairs"
    if suffix == ".txt":
        return "texts"
    if suffix == ".json":
        return "answers"
    if path.startswith("hf:") or suffix not in (".tsv", ".csv", ".jsonl", ".parquet"):
        return "pairs"  # parallel files, or what the readers refuse in their own words
    check_file(path)
    if suffix == ".tsv":
        return _of_table(path)
    names = _names(path, suffix)
    shape = shape_of(names)
    if shape is None:
        raise DataError("cannot tell what kind of examples these are", where=path,
                        allowed=f"it has: {', '.join(name[:40] for name in names[:20]) or 'no fields'}",
                        fix="say so with --task, and name its columns with --set data.text=… and the like")  # fmt: skip
    return shape


def shape_of(names: Sequence[str]) -> Shape | None:
    """What a file with columns of these names holds.

    >>> shape_of(["text", "label"]), shape_of(["en", "zh"]), shape_of(["id", "messages"]), shape_of(["a", "b"])
    ('labelled', 'pairs', 'chats', None)
    """
    known = set(names)
    if known & {"messages", "conversations"}:
        return "chats"
    if "question" in known and known & {"passage", "context"}:
        return "answers"
    if "translation" in known or {"source", "target"} <= known:
        return "pairs"
    if "label" in known:
        return "labelled"
    if "text" in known:
        return "texts"
    return "pairs" if sum(map(looks_like_a_language, names)) >= 2 else None


def _of_table(path: str) -> Shape:
    lines = [line.split("\t") for _, line in itertools.islice(read_lines(path, lambda error: None), PEEKED)]
    shape = shape_of(lines[0])
    if shape is not None:
        return shape
    last = [cells[-1].strip() for cells in lines if len(cells) >= 2]
    few = len(set(last)) <= MOST_LABELS and len(set(last)) * SAME_LABEL <= len(last)
    short = all(len(cell) <= 40 for cell in last)
    return "labelled" if last and few and short and len(lines) > 2 * SAME_LABEL else "pairs"


def _names(path: str, suffix: str) -> list[str]:
    if suffix == ".parquet":
        return _parquet_names(path)
    line = next((line for _, line in read_lines(path, lambda error: None) if line.strip()), "")
    if suffix == ".csv":
        return [cell.strip().strip('"') for cell in line.split(",")]
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return list(value) if isinstance(value, dict) else []


def _parquet_names(path: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with plain_file(path) as name:
        try:
            return list(pq.read_schema(name).names)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(
                f"cannot be read as Parquet: {ascii(' '.join(str(error).split()))[1:-1][:200]}", where=path
            ) from None
