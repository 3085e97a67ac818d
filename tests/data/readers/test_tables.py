from __future__ import annotations

from pathlib import Path

import pytest

from ciyuan.data.readers import Tally, read_labelled, read_pairs
from ciyuan.errors import DataError
from tests.data.writing import COMPRESS, write


def pairs(*paths: str, **names: str) -> list[tuple[str, str]]:
    return [(record.fields["source"], record.fields["target"]) for record in read_pairs(paths, **names)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_tsv_without_a_header_is_source_then_target(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.tsv{suffix}", 'Hello\t你好\r\n "b"\tc\u2028d\n')
    assert pairs(path) == [("Hello", "你好"), (' "b"', "c\u2028d")]
    assert [record.where for record in read_pairs([path])] == [f"{path}:1", f"{path}:2"]


def test_tsv_header_is_noticed_by_the_names_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "id\tzh-CN\ten\n1\t你好\tHello\n")
    assert pairs(path, source="en", target="zh") == [("Hello", "你好")]
    path = write(tmp_path / "b.tsv", "target\tsource\nb\ta\n")
    tally = Tally()
    assert [record.fields["source"] for record in read_pairs([path], tally=tally)] == ["a"]
    assert "header" in next(iter(tally.notes))


def test_a_glossary_of_short_words_is_not_taken_for_a_header(tmp_path: Path) -> None:
    assert pairs(write(tmp_path / "a.tsv", "no\tja\nis\tist\n")) == [("no", "ja"), ("is", "ist")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nc\n", r"a\.tsv:2: 1 column where the first line has 2"),
        ("a\tb\nc\td\te\n", r"a\.tsv:2: 3 columns where the first line has 2"),
        ("a\tb\n\nc\td\n", r"a\.tsv:2: 1 column"),
        ("a b\n", r"a\.tsv:1: the first line has 1 column"),
    ],
)
def test_tsv_line_of_another_width_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(write(tmp_path / "a.tsv", content))


def test_tsv_with_further_columns_says_which_are_read(tmp_path: Path) -> None:
    tally = Tally()
    path = write(tmp_path / "a.tsv", "a\tb\tCC-BY\n")
    assert [record.fields for record in read_pairs([path], tally=tally)] == [{"source": "a", "target": "b"}]
    assert "3 columns without a header" in next(iter(tally.notes))


def test_a_group_needs_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\tlaw\nx\tgood\t7\n")
    (record,) = read_labelled([path], group="law")
    assert (record.fields, record.group) == ({"text": "x", "label": "good"}, "7")
    with pytest.raises(DataError, match='no header, so no column "law"'):
        list(read_labelled([write(tmp_path / "b.tsv", "x\tgood\n")], group="law"))


def test_csv_reads_quotes_line_ends_and_commas(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'en,zh,n\r\n"a, ""b""\nc",你好,1\r\nd,e,2\r\n')
    assert pairs(path, source="en", target="zh") == [('a, "b"\nc', "你好"), ("d", "e")]
    assert [record.line for record in read_pairs([path], source="en", target="zh")] == [2, 4]
    assert pairs(write(tmp_path / "b.csv", "en,zh\na,b\n")) == [("a", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Hello,你好\n", r'a\.csv:1: no field "en" for the source'),
        ("enn,zh\na,b\n", "did you mean enn"),
        ("en;zh\na;b\n", "parted by semicolons"),
        ("en,zh\na\n", r"a\.csv:2: 1 column where the header has 2"),
        ('en,zh\na,b\n"c,d\ne,f\n', r"a\.csv:3: cannot be read as CSV"),
        ("en,en,zh\na,b,c\n", 'names "en" twice'),
    ],
)
def test_csv_faults_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pairs(write(tmp_path / "a.csv", content), source="en", target="zh")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_parallel_files_are_one_corpus_whatever_their_order(tmp_path: Path, suffix: str) -> None:
    zh = write(tmp_path / f"corpus.zh{suffix}", "你好\n\n")
    en = write(tmp_path / f"corpus.en{suffix}", "Hello\nBye\r\n")
    expected = [("Hello", "你好"), ("Bye", "")]
    assert pairs(zh, en, source="en", target="zh") == expected
    assert pairs(en, zh) == expected


@pytest.mark.parametrize(("one", "two"), [(3, 5), (5, 3), (1, 4000)])
def test_parallel_files_of_different_length_are_refused_with_both_counts(tmp_path: Path, one: int, two: int) -> None:
    en = write(tmp_path / "c.en", "a\n" * one)
    zh = write(tmp_path / "c.zh", "b\n" * two)
    with pytest.raises(DataError) as error:
        pairs(en, zh)
    short = en if one < two else zh
    assert f"{short}:{min(one, two) + 1}: " in str(error.value)
    assert f"{en} has {one:,} line" in str(error.value)
    assert f"{zh} has {two}" in str(error.value).replace(",", "")


def test_parallel_files_of_other_languages_are_refused(tmp_path: Path) -> None:
    en, fr = write(tmp_path / "c.en", "a\n"), write(tmp_path / "c.fr", "b\n")
    with pytest.raises(DataError, match="en and fr are not en and zh"):
        pairs(en, fr, source="en", target="zh")
