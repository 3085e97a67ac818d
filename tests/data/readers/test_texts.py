from __future__ import annotations

from pathlib import Path

import pytest

from ciyuan.data.readers import read_texts, texts
from tests.data.writing import COMPRESS, write


@pytest.mark.parametrize("suffix", COMPRESS)
def test_blank_lines_part_documents(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", "\n\n一\n二\r\n\u3000\n\n three\nfour")
    found = [(r.fields["text"], r.line, r.group, r.lines) for r in read_texts([path])]
    assert found == [("一\n二", 3, f"{path}#1", 2), (" three\nfour", 7, f"{path}#2", 2)]


def test_the_pieces_of_a_long_document_join_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "PIECE", 100)
    document = "\n".join(f"line {i} of a long document" for i in range(50))
    records = list(read_texts([write(tmp_path / "a.txt", document + "\n\nnext\n")]))
    assert len(records) > 10
    assert "".join(record.fields["text"] for record in records[:-1]) == document
    assert {record.group for record in records[:-1]} == {records[0].group} != {records[-1].group}
    assert sum(record.lines for record in records) == 51
