from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from ciyuan.data.readers import files
from ciyuan.data.readers.files import read_lines
from ciyuan.errors import DataError
from tests.data.writing import COMPRESS, write


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_come_back_from_every_compression(tmp_path: Path, suffix: str) -> None:
    lines = [f"第{i}行 line" for i in range(5000)]
    path = write(tmp_path / f"a.txt{suffix}", "\n".join(lines) + "\n")
    assert list(read_lines(path)) == list(enumerate(lines, start=1))


def test_only_lf_and_crlf_end_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg\r\nzwei\n\n last"
    assert list(read_lines(write(tmp_path / "a.txt", text))) == [
        (1, "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"),
        (2, "zwei"),
        (3, ""),
        (4, " last"),
    ]


def test_a_utf8_byte_order_mark_is_passed_over_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf\xef\xbb\xbfa\n")
    assert list(read_lines(path)) == [(1, "\ufeffa")]


def test_bad_utf8_is_named_with_line_and_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "文\n".encode() + b"ok \xff\n")
    with pytest.raises(DataError) as error:
        list(read_lines(path))
    assert f"{path}:2: is not UTF-8: byte 0xff at byte 8 of the file, byte 4 of the line" in str(error.value)


def test_bytes_are_counted_behind_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbfab\xff")
    with pytest.raises(DataError, match="at byte 6 of the file, byte 3 of the line"):
        list(read_lines(path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_utf16_and_utf32_are_named(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", "\ufeffabc\n".encode(encoding))
    with pytest.raises(DataError, match=f"is {encoding[:6].upper()}, not UTF-8"):
        list(read_lines(path))


def test_a_nul_is_named_with_line_and_byte(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=":2: a NUL at byte 4 of the file, byte 2 of the line"):
        list(read_lines(write(tmp_path / "a.txt", b"a\nb\0c\n")))


def test_missing_empty_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus.tsv", "a\tb\n")
    with pytest.raises(DataError, match=r"no such file[;\n] ?did you mean corpus\.tsv\?"):
        list(read_lines(str(tmp_path / "corpsu.tsv")))
    with pytest.raises(DataError, match="is empty"):
        list(read_lines(write(tmp_path / "b.txt", "")))
    with pytest.raises(DataError, match="is a folder"):
        list(read_lines(str(tmp_path)))
    with pytest.raises(DataError, match="not a regular file"):
        list(read_lines("/dev/null"))
    with pytest.raises(DataError, match="cannot be opened"):
        list(read_lines("a\0b"))
    with pytest.raises(DataError, match="no such file"):
        list(read_lines(str(tmp_path / "corpus.tsv" / "x")))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_empty_inside_a_compression_is_empty(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match="is empty"):
        list(read_lines(write(tmp_path / f"a.txt{suffix}", "")))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_every_truncation_of_compressed_data_is_noticed(tmp_path: Path, suffix: str) -> None:
    whole = COMPRESS[suffix](b"".join(b"line %d\n" % i for i in range(50)))
    for size in range(1, len(whole)):
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut off|is not whole"):
            list(read_lines(str(path)))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_damaged_compressed_data_is_a_data_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(b"this is no compressed file at all\n" * 10)
    with pytest.raises(DataError, match="is not whole"):
        list(read_lines(str(path)))


def test_zstd_frames_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    one, two = (zstandard.ZstdCompressor().compress(text) for text in (b"a\nb", b"c\nd\n"))
    path.write_bytes(one + two)
    assert [line for _, line in read_lines(str(path))] == ["a", "bc", "d"]


def test_a_line_longer_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 2**20)
    path = write(tmp_path / "a.txt.gz", b"short\n" + b"x" * 2**22)
    with pytest.raises(DataError, match=":2: the line is longer than 1 MiB"):
        list(read_lines(path))
    exact = write(tmp_path / "b.txt", b"x" * (2**20 - 1) + b"\n")
    assert len(list(read_lines(exact))) == 1
