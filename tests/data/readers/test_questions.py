from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ciyuan.data.readers import Columns, read, read_answers
from ciyuan.errors import DataError
from tests.data.writing import write


def squad(paragraphs: list[tuple[str, list[tuple[str, list[tuple[str, int]]]]]], **more: Any) -> dict[str, Any]:
    """SQuAD's JSON of (passage, [(question, [(answer, start)])]), an article each."""
    return {
        "version": "2.0",
        "data": [
            {
                "title": f"title {i}",
                "paragraphs": [
                    {
                        "context": passage,
                        "qas": [
                            {"id": "x", "question": q, "answers": [{"text": t, "answer_start": s} for t, s in answers], **more}
                            for q, answers in questions
                        ],
                    }
                ],
            }
            for i, (passage, questions) in enumerate(paragraphs)
        ],
    }


PARAGRAPHS = [
    ("海是蓝的。", [("海是什么颜色？", [("蓝", 2), ("蓝的", 2)]), ("天呢？", [])]),
    ("The sea is blue.", [("Which colour?", [("blue", 11)])]),
]


def test_squad_gives_a_record_for_each_question(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(squad(PARAGRAPHS), ensure_ascii=False))
    found = list(read_answers([path]))
    assert [record.fields for record in found] == [
        {"question": "海是什么颜色？", "passage": "海是蓝的。", "answer": "蓝"},
        {"question": "天呢？", "passage": "海是蓝的。", "answer": ""},
        {"question": "Which colour?", "passage": "The sea is blue.", "answer": "blue"},
    ]
    assert [(record.answers, record.start) for record in found] == [(("蓝", "蓝的"), 2), ((), -1), (("blue",), 11)]
    assert [record.where for record in found] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert found[0].group == found[1].group != found[2].group
    assert len({record.group for record in read_answers([path], group="title")}) == 2


def test_an_impossible_question_has_no_answer_whatever_stands_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json.gz", json.dumps(squad(PARAGRAPHS, is_impossible=True)))
    assert {record.fields["answer"] for record in read_answers([path])} == {""}
    assert not any(record.answers for record in read_answers([path]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is a JSON list"),
        ("{", "is not JSON"),
        ("{}", 'no list of objects "data"'),
        ('{"data": [{"paragraphs": [{"context": 1, "qas": []}]}]}', 'question 1 has no text "context"'),
        ('{"data": [{"paragraphs": [{"context": "a", "qas": [{"question": "b", "answers": [{}]}]}]}]}', 'has no text "text"'),
        ('{"data": [], "data": []}', "stands there twice"),
        ('{"data": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"data": [1]}', "no list of objects"),
        (b'{"data": "\xff"}', "is not UTF-8"),
    ],
)
def test_what_is_not_squads_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_answers([write(tmp_path / "a.json", content)]))


def test_json_lines_named_json_are_told_their_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name the file \.jsonl"):
        list(read_answers([write(tmp_path / "a.json", '{"a": 1}\n{"b": 2}\n')]))


def test_tables_hold_questions_too(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", "question,passage,answer\nq,a b,b\n")
    assert [(r.fields["answer"], r.answers, r.start) for r in read_answers([plain])] == [("b", ("b",), -1)]
    asked = write(tmp_path / "b.tsv", "question\tcontext\nq\tp\n")
    assert [r.fields for r in read_answers([asked])] == [{"question": "q", "passage": "p", "answer": ""}]
    bare = write(tmp_path / "c.tsv", "what is it?\tit is a cat\n")
    assert [r.fields["passage"] for r in read_answers([bare])] == ["it is a cat"]
    with pytest.raises(DataError, match='no field "answer"'):
        columns = Columns(dict.fromkeys(("question", "passage", "answer")))
        list(read([write(tmp_path / "d.csv", "question,passage\nq,p\n")], columns))


def test_nested_answers_of_rows_are_read(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "context": "a b", "answers": {"text": ["b", "a b"], "answer_start": [2, 0]}},
        {"question": "r", "context": "a b", "answers": {"text": [], "answer_start": []}},
        {"question": "s", "context": "a b", "answers": [{"text": "a", "answer_start": 0}]},
        {"question": "t", "context": "c", "answers": ["c"]},
    ]
    lines = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    expected = [("b", ("b", "a b"), 2), ("", (), -1), ("a", ("a",), 0), ("c", ("c",), -1)]
    found = list(read_answers([lines]))
    assert [(r.fields["answer"], r.answers, r.start) for r in found] == expected
    assert len({r.group for r in found}) == 2, "the passage is the group"
    pq.write_table(pa.Table.from_pylist(rows[:2]), tmp_path / "a.parquet")
    assert [(r.fields["answer"], r.answers, r.start) for r in read_answers([str(tmp_path / "a.parquet")])] == expected[:2]
    with pytest.raises(DataError, match="neither text nor SQuAD's"):
        list(read_answers([write(tmp_path / "b.jsonl", '{"question": "q", "passage": "p", "answer": {"text": 1}}\n')]))
