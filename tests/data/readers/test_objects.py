from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ciyuan.data.readers import read_labelled, read_pairs, read_texts
from ciyuan.errors import DataError, UserError
from tests.data.writing import COMPRESS, write


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_reads_named_nested_and_null_fields(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"en": "a\u2028b", "zh": "甲"},
        {"translation": {"en": "c", "zh": "丙"}, "id": 4},
        {"zh": None, "en": "e"},
    ]
    path = write(tmp_path / f"a.jsonl{suffix}", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    found = [(r.fields["source"], r.fields["target"], r.line) for r in read_pairs([path], "en", "zh")]
    assert found == [("a\u2028b", "甲", 1), ("c", "丙", 2), ("e", "", 3)]


def test_jsonl_labels_may_be_whole_numbers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"text": "x", "label": 1, "law": "L"}\n{"text": "y", "label": true, "law": "M"}\n'
    )
    records = list(read_labelled([path], group="law"))
    assert [(r.fields["label"], r.group) for r in records] == [("1", "L"), ("true", "M")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"texts": "a"}', r'a\.jsonl:2: no field "text" for the text.*\n.*texts\ndid you mean texts'),
        ("{}", "it has: no fields"),
        ('{"text": 3}', 'field "text" is a number, not text'),
        ('{"text": ["a"]}', 'field "text" is a list, not text'),
        ('{"text": "a", "text": "b"}', 'the key "text" stands there twice'),
        ('{"text": {"a": 1, "a": 2}}', 'the key "a" stands there twice'),
        ('{"text": "a\\ud800"}', r"half of a surrogate pair \(\\ud800\)"),
        ('{"text": "a\\u0000"}', "a NUL character"),
        ('["text"]', "is a JSON list, not an object"),
        ("text", "is not JSON"),
        ('{"text": "a"', "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "limit"),
    ],
)
def test_jsonl_faults_are_named_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=message) as error:
        list(read_texts([path]))
    assert ":2: " in str(error.value)
    assert str(error.value).count("\n") <= 2


def test_parquet_reads_flat_and_nested_rows(tmp_path: Path) -> None:
    flat = pa.table({"zh": ["甲", None], "n": [1, 2], "en": ["a", "b"]})
    pq.write_table(flat, tmp_path / "flat.parquet")
    nested = pa.table({"translation": [{"en": "a", "zh": "甲"}]})
    pq.write_table(nested, tmp_path / "nested.parquet")
    flat_pairs = [(tuple(r.fields.values()), r.line) for r in read_pairs([str(tmp_path / "flat.parquet")], "en", "zh")]
    assert flat_pairs == [(("a", "甲"), 1), (("b", ""), 2)]
    assert [tuple(r.fields.values()) for r in read_pairs([str(tmp_path / "nested.parquet")], "en", "zh")] == [
        ("a", "甲")
    ]
    packed = write(tmp_path / "flat.parquet.gz", (tmp_path / "flat.parquet").read_bytes())
    assert len(list(read_pairs([packed], "en", "zh"))) == 2


def test_parquet_faults_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_pairs([write(tmp_path / "a.parquet", b"PAR1 nothing of it PAR1")]))
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match='field "text" is a number'):
        list(read_texts([str(tmp_path / "b.parquet")]))
    with pytest.raises(DataError, match='no field "source"'):
        list(read_pairs([str(tmp_path / "b.parquet")]))
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"text": bad}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="not UTF-8"):
        list(read_texts([str(tmp_path / "c.parquet")]))


def test_the_hub_needs_a_package_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        list(read_pairs(["hf:opus100"]))


def test_hub_rows_are_records(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("datasets")
    asked = []

    def load_dataset(name: str, config: str | None, **how: object) -> list[dict[str, object]]:
        asked.append((name, config, how))
        return [{"translation": {"en": "a", "zh": "甲"}}]

    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    (record,) = read_pairs(["hf:opus100:en-zh"], "en", "zh")
    assert record.fields == {"source": "a", "target": "甲"}
    assert asked == [("opus100", "en-zh", {"split": "train", "streaming": True})]
