"""Named fields: JSONL, Parquet and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ciyuan.data.readers.conversations import from_chats
from ciyuan.data.readers.files import plain_file, read_lines
from ciyuan.data.readers.record import ALIASES, CHATS, Columns, Record, Tally, from_rows, looks_like_a_language
from ciyuan.errors import DataError, UserError


def read_jsonl(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """One JSON object a line. {"translation": {"en": …, "zh": …}} counts as the fields en and zh."""
    return _records(_objects(path, tally), path, columns, tally)


def read_parquet(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """The rows of a Parquet file, a few at a time; a record's line is its row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def rows(name: str) -> Iterator[tuple[int, dict[str, object]]]:
        number = 0
        try:
            with pq.ParquetFile(name) as file:
                wanted = _parquet_columns(file.schema_arrow, columns)
                for batch in file.iter_batches(batch_size=1024, columns=wanted, use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except UnicodeDecodeError as error:
            raise DataError(f"text that is not UTF-8: {error.reason}", where=f"{path}:{number + 1}") from None
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"cannot be read as Parquet: {_one_line(error)}", where=path) from None

    with plain_file(path) as name:
        yield from _records(rows(name), path, columns, tally)


def read_hub(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """hf:NAME or hf:NAME:CONFIG, the split `train` of a data set, streamed by the optional package `datasets`."""
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise UserError("needs the package datasets", where=path, fix="pip install datasets") from None
    name, _, config = path.removeprefix("hf:").partition(":")
    try:
        rows = datasets.load_dataset(name, config or None, split="train", streaming=True)
        yield from _records(enumerate(rows, start=1), path, columns, tally)
    except UserError:
        raise
    except Exception as error:  # whatever the network, the hub or the data set's own files did
        raise DataError(f"cannot be read: {_one_line(error)}", where=path) from error


def _records(
    rows: Iterable[tuple[int, Mapping[str, object]]], path: str, columns: Columns, tally: Tally
) -> Iterator[Record]:
    return (from_chats if columns.roles == CHATS else from_rows)(rows, path, columns, tally)


def _objects(path: str, tally: Tally) -> Iterator[tuple[int, dict[str, object]]]:
    decoder = json.JSONDecoder(object_pairs_hook=without_repeats)
    for number, line in read_lines(path, tally.refuse):
        if not line or line.isspace():
            continue
        try:
            yield number, _object(line, f"{path}:{number}", decoder)
        except DataError as error:
            tally.refuse(error)


def _object(line: str, where: str, decoder: json.JSONDecoder) -> dict[str, object]:
    try:
        value = decoder.decode(line)
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg} at character {error.pos + 1}", where=where,
                        allowed='one object a line: {"text": "…"}') from None  # fmt: skip
    except (ValueError, RecursionError) as error:
        found = "JSON nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(found, where=where) from None
    if not isinstance(value, dict):
        raise DataError(f"is a JSON {type(value).__name__}, not an object", where=where,
                        allowed='one object a line: {"text": "…"}')  # fmt: skip
    return value


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What `json` is given to refuse, with a ValueError, an object that says a key twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{ascii(repeated)[1:-1][:40]}" stands there twice')
    return result


def _parquet_columns(schema: Any, columns: Columns) -> list[str] | None:
    """The columns worth decoding; None (all) where fields are nested or cannot be told by name."""
    if columns.roles == CHATS:
        return None
    asked = {*columns.names, *columns.names.values(), *ALIASES.values(), columns.group, "translation"}
    names = [name for name in schema.names if name in asked or looks_like_a_language(name)]
    return names if len(names) >= len(columns.names) or "translation" in names else None


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return "".join(char if char.isprintable() else "?" for char in said)[:200]
