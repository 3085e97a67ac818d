from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ciyuan.data.readers import read_chats
from ciyuan.errors import DataError
from tests.data.writing import write

TURNS = (("system", "Be brief."), ("user", "你好"), ("assistant", "您好！"))


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_both_spellings_of_a_conversation_are_read(tmp_path: Path) -> None:
    messages = [{"role": role, "content": words} for role, words in TURNS]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    shared = [{"from": names[role], "value": words} for role, words in TURNS]
    parts = [{"role": role, "content": [{"type": "text", "text": words}]} for role, words in TURNS]
    path = write(tmp_path / "a.jsonl", lines({"messages": messages}, {"conversations": shared}, {"messages": parts, "id": 3}))
    found = list(read_chats([path]))
    assert [record.turns for record in found] == [TURNS] * 3
    assert {record.fields["chat"] for record in found} == {"system\nBe brief.\nuser\n你好\nassistant\n您好！"}
    assert [record.line for record in found] == [1, 2, 3]
    pq.write_table(pa.Table.from_pylist([{"talk": messages}]), tmp_path / "a.parquet")
    assert [record.turns for record in read_chats([str(tmp_path / "a.parquet")], "talk")] == [TURNS]


def test_where_the_assistant_says_nothing_the_text_is_empty(tmp_path: Path) -> None:
    silent = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]
    path = write(tmp_path / "a.jsonl", lines({"messages": silent}, {"messages": []}))
    assert [record.fields for record in read_chats([path])] == [{"chat": ""}] * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, 'no field "messages"'),
        ({"message": []}, "did you mean message\\?"),
        ({"messages": "x"}, "is not a list of messages"),
        ({"messages": ["x"]}, "has no role and content"),
        ({"messages": [{"role": "robot", "content": "x"}]}, '"robot" is no role'),
        ({"messages": [{"role": "user", "content": 3}]}, 'field "content" is a number'),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 'field "content" is a list'),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", lines(row))
    with pytest.raises(DataError, match=message) as error:
        list(read_chats([path]))
    assert str(error.value).startswith(f"{path}:1")


def test_conversations_come_in_lines_of_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r".csv holds no conversations"):
        list(read_chats([write(tmp_path / "a.csv", "messages\nx\n")]))
    with pytest.raises(DataError, match=r".txt holds no conversations"):
        list(read_chats([write(tmp_path / "a.txt", "x\n")]))


def test_conversations_may_be_grouped(tmp_path: Path) -> None:
    row = {"messages": [{"role": "assistant", "content": "x"}], "who": 7}
    assert [r.group for r in read_chats([write(tmp_path / "a.jsonl", lines(row))], group="who")] == ["7"]
