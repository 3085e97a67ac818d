"""Which reader gets which file; and that no file whatever brings anything but records or a DataError."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ciyuan.data.readers import FORMATS, Columns, read, read_labelled, read_pairs, read_texts
from ciyuan.errors import DataError
from tests.data.readers.test_memories import PO, tmx, unit
from tests.data.readers.test_questions import squad
from tests.data.writing import COMPRESS, write


def test_unknown_suffixes_are_refused_with_a_guess(tmp_path: Path) -> None:
    for name, guess in (
        ("a.tvs", "did you mean .tsv?"),
        ("a.gzip", "did you mean .gz"),
    ):
        with pytest.raises(DataError) as error:
            list(read_pairs([write(tmp_path / name, "a\tb\n")]))
        assert "is not a format that is read" in str(error.value)
        assert guess in str(error.value)
    with pytest.raises(DataError, match=r"(?s).json holds questions about passages.*name the file .jsonl"):
        list(read_pairs([write(tmp_path / "a.json", "a\tb\n")]))
    with pytest.raises(DataError, match="no suffix is not a format"):
        list(read_pairs([write(tmp_path / "noname", "a\tb\n")]))


def test_half_of_a_parallel_corpus_asks_for_its_partner(tmp_path: Path) -> None:
    en, zh = write(tmp_path / "c.en", "a\n"), write(tmp_path / "c.zh", "b\n")
    with pytest.raises(DataError, match=f"one of two parallel files\\? give {zh} too"):
        list(read_pairs([en]))
    with pytest.raises(DataError, match="3 files differ only in their suffix"):
        list(read_pairs([en, zh, write(tmp_path / "c.de", "c\n")]))


def test_a_format_that_cannot_hold_what_is_asked_is_refused(tmp_path: Path) -> None:
    text, memory = write(tmp_path / "a.txt", "a\n"), write(tmp_path / "a.tmx", tmx(unit(en="a", de="b")))
    with pytest.raises(DataError, match=r"\.txt holds one text"):
        list(read_pairs([text]))
    with pytest.raises(DataError, match=r"\.tmx holds pairs"):
        list(read_texts([memory]))
    with pytest.raises(DataError, match=r"\.txt holds one text"):
        list(read_labelled([text]))


def test_a_missing_later_file_is_refused_before_the_first_is_read(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tsv", "a\tb\n")
    with pytest.raises(DataError, match="no such file"):
        next(read_pairs([first, str(tmp_path / "b.tsv")]))


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"source": ["a", "b"], "target": ["c", "d"], "text": ["x", "y"], "label": ["1", "2"]}), sink
    )
    return bytes(sink.getvalue())


_ROW = {"source": "a", "target": "甲", "text": "t", "label": "x"}
SEEDS = {
    ".tsv": "source\ttarget\ttext\tlabel\na\t甲\tt\tx\nb\tc\td\te\n".encode(),
    ".csv": 'source,target,text,label\n"a",甲,t,x\nb,"c ""d""\n",e,f\n'.encode(),
    ".jsonl": (json.dumps(_ROW) + "\n" + json.dumps({"translation": _ROW, **_ROW}, ensure_ascii=False) + "\n").encode(),
    ".parquet": _parquet(),
    ".tmx": tmx(unit(en="a", zh="甲"), unit(en="b", zh="乙")).encode(),
    ".po": PO.encode(),
    ".txt": b"one\ntwo\n\nthree\n",
    ".json": json.dumps(squad([("p 甲", [("q", [("甲", 2)]), ("r", [])])]), ensure_ascii=False).encode(),
}
SHAPES = (("source", "target"), ("text",), ("text", "label"), ("question", "passage", "answer"), ("chat",))


def outcome(raw: bytes, suffix: str, folder: Path) -> None:
    path = folder / f"f{suffix}"
    path.write_bytes(raw)
    for roles in SHAPES:
        begun = time.monotonic()
        try:
            for record in read([str(path)], Columns(dict.fromkeys(roles))):
                assert tuple(record.fields) == roles
                "".join(record.fields.values()).encode()
                assert record.line >= 0
        except DataError as error:
            said = str(error)
        else:
            said = str(path)
        assert str(path) in said
        assert said.count("\n") <= 2
        assert len(said) < 2000
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=60)
@given(
    raw=st.binary(max_size=200) | st.text(alphabet='"\\\t\n\r,;{}[]:ae0<>/\u2028\0\ufeff', max_size=80).map(str.encode)
)
@example(raw=b"\xef\xbb\xbf")
@example(raw=b"\n")
@example(raw=b"\0")
def test_any_bytes_are_records_or_a_data_error(suffix: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcome(raw, suffix, Path(folder))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compression", COMPRESS)
def test_any_damage_to_a_good_file_is_records_or_a_data_error(tmp_path: Path, suffix: str, compression: str) -> None:
    random_ = random.Random(f"{suffix}{compression}")
    whole = COMPRESS[compression](SEEDS[suffix])
    for _ in range(80):
        raw = bytearray(whole)
        for _ in range(random_.randint(1, 3)):
            place = random_.randrange(len(raw))
            action = random_.randrange(4)
            if action == 0:
                raw[place] ^= 1 << random_.randrange(8)
            elif action == 1:
                del raw[place:]
                break
            elif action == 2:
                raw[place:place] = random_.choice(
                    [b"\xff", b"\0", b'"', b"\n", b"\r", b"<", b"{", "\u2028".encode(), b"\t"]
                )
            else:
                raw[place : place + 8] = b""
                if not raw:
                    break
        outcome(bytes(raw), suffix + compression, tmp_path)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)] * 2),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_what_is_read(pairs: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        rows = [dict(zip(("source", "target"), pair, strict=True)) for pair in pairs]
        pq.write_table(pa.table({k: [row[k] for row in rows] for k in ("source", "target")}), at / "a.parquet")
        write(at / "a.jsonl.zst", "".join(json.dumps(row) + "\n" for row in rows))
        for name in ("a.jsonl.zst", "a.parquet"):
            assert [r.fields for r in read_pairs([str(at / name)])] == rows
        # Lines of columns hold what has no line end and no tab in it.
        plain = [tuple(side.translate({9: " ", 10: " ", 13: " "}) for side in pair) for pair in pairs]
        lines = [("source", "target"), *plain]
        write(at / "a.tsv", "".join("\t".join(pair) + "\n" for pair in lines))
        quoted = [",".join('"' + side.replace('"', '""') + '"' for side in pair) + "\r\n" for pair in lines]
        write(at / "a.csv.gz", "".join(quoted))
        for i, name in enumerate(("c.en", "c.zh")):
            write(at / name, "".join(pair[i] + "\n" for pair in lines[1:]))
        for paths in (["a.tsv"], ["a.csv.gz"], ["c.en", "c.zh"]):
            found = [tuple(r.fields.values()) for r in read_pairs([str(at / name) for name in paths])]
            assert found == plain
