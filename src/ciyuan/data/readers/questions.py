"""Questions about passages in SQuAD's JSON, versions 1 and 2, in which CMRC and others come as well.

{"data": [{"title": "…", "paragraphs": [{"context": "…", "qas": [
    {"question": "…", "answers": [{"text": "…", "answer_start": 7}], "is_impossible": false}]}]}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ciyuan.data.readers.files import open_bytes, skip_byte_order_mark
from ciyuan.data.readers.objects import without_repeats
from ciyuan.data.readers.record import Columns, Record, Tally, check_text, finished
from ciyuan.errors import DataError

SHAPE = '{"data": [{"paragraphs": [{"context": "…", "qas": [{"question": "…", "answers": […]}]}]}]}'


def read_squad(path: str, columns: Columns, tally: Tally) -> Iterator[Record]:
    """A record for each question; its line is the question's number, its group the passage, or the title if data.group is title.

    A question without answers, or said to be impossible, has the answer "".
    """
    if columns.group not in (None, "title"):
        raise DataError(f'SQuAD\'s JSON has no field "{columns.group}" by which to group', where=path,
                        allowed="allowed: title; without data.group the passage is what train and dev never share")  # fmt: skip
    number = 0
    for article in _list(_loaded(path), "data", path):
        title = article.get("title")
        for paragraph in _list(article, "paragraphs", path):
            passage = _text(paragraph, "context", path, number + 1)
            for question in _list(paragraph, "qas", path):
                number += 1
                try:
                    group = None if columns.group is None else check_text(str(title), path, number)
                    record = _asked(question, passage, path, number, group)
                except DataError as error:
                    tally.refuse(error)
                else:
                    yield finished(record, columns)


def _asked(question: Mapping[str, Any], passage: str, path: str, number: int, group: str | None) -> Record:
    answers = [] if question.get("is_impossible") is True else _list(question, "answers", path, lacking=[])
    texts = tuple(_text(answer, "text", path, number) for answer in answers)
    start = answers[0].get("answer_start", -1) if answers else -1
    asked = _text(question, "question", path, number)
    fields = {"question": asked, "passage": passage, "answer": texts[0] if texts else ""}
    return Record(fields, path, number, group, answers=texts, start=start if isinstance(start, int) else -1)


def _loaded(path: str) -> Mapping[str, Any]:
    with open_bytes(path) as stream:
        skip_byte_order_mark(stream, path)
        raw = stream.read()
    try:
        value = json.loads(raw.decode(), object_pairs_hook=without_repeats)
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the file", where=path,
                        fix="convert the file, e.g. iconv -f GB18030 -t UTF-8") from None  # fmt: skip
    except json.JSONDecodeError as error:
        raise DataError(f"is not JSON: {error.msg}", where=f"{path}:{error.lineno}",
                        fix="one object a line? name the file .jsonl") from None  # fmt: skip
    except (ValueError, RecursionError) as error:
        found = "JSON nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(found, where=path) from None
    if not isinstance(value, dict):
        raise DataError(f"is a JSON {type(value).__name__}, not SQuAD's object", where=path, allowed=SHAPE)
    return value


def _list(holder: Mapping[str, Any], name: str, path: str, *, lacking: list[Any] | None = None) -> list[Any]:
    value = holder.get(name, lacking)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise DataError(f'no list of objects "{name}"', where=path, allowed=SHAPE)
    return value


def _text(holder: Mapping[str, Any], name: str, path: str, number: int) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise DataError(f'question {number} has no text "{name}"', where=path, allowed=SHAPE)
    return check_text(value, path, number)
