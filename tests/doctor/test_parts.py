from __future__ import annotations

import random
from pathlib import Path

import pytest

from ciyuan.data import DataSettings
from ciyuan.doctor import examine, nearness
from ciyuan.doctor.cleaning import clean, mend
from ciyuan.doctor.machine import file_system, probe_disk
from ciyuan.doctor.pairs import numbers_differ, placeholders
from ciyuan.doctor.scripts import Chinese, main_language
from ciyuan.doctor.shapes import guess_shape
from ciyuan.errors import DataError
from tests.data.writing import write
from tests.doctor.spoiling import pairs, spoil


@pytest.mark.parametrize(
    ("name", "content", "shape"),
    [
        ("a.tsv", "one\t一\ntwo\t二\n", "pairs"),
        ("a.tsv", "en\tzh\none\t一\n", "pairs"),
        ("a.tsv", "text\tlabel\none\tx\n", "labelled"),
        ("b.tsv", "".join(f"text {i}\t{'ab'[i % 2]}\n" for i in range(60)), "labelled"),
        ("a.csv", "question,context,answer\na,b,c\n", "answers"),
        ("a.jsonl", '{"messages": []}\n', "chats"),
        ("a.jsonl", '{"translation": {"en": "a", "zh": "b"}}\n', "pairs"),
        ("a.txt", "text\n", "texts"),
        ("a.po", 'msgid "a"\n', "pairs"),
    ],
)
def test_what_files_hold_is_guessed(tmp_path: Path, name: str, content: str, shape: str) -> None:
    assert guess_shape([write(tmp_path / name, content)]) == shape


def test_what_cannot_be_guessed_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)cannot tell.*it has: foo, barbar.*--task"):
        guess_shape([write(tmp_path / "a.jsonl", '{"foo": 1, "barbar": 2}\n')])


@pytest.mark.parametrize(
    ("source", "target", "differ"),
    [
        ("at 50,000 units", "50000 单位", False), ("on 12/30/1899", "1899 年 12 月 30 日", False), ("two of 3",
        "3 个中的 2 个", False),
        ("page 12", "第 13 页", True), ("in 1935", "在 1953 年", False), ("100 of them", "其中", True), ("A1:B6", "A1:B6", False),
        ("January 5", "1 月 5 日", False), ("８ bits", "8 位", False),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_people_write_them(source: str, target: str, differ: bool) -> None:
    assert bool(numbers_differ(source, target)) == differ


def test_placeholders_are_told_from_percents() -> None:
    assert placeholders("100% sure, 5 %s of {name} and ${HOME}, %1$s %(n)d %PRODUCTNAME {0} {{x}}").total() == 8
    assert not placeholders("50% of a 10 %discount {not a name here}")


def test_the_two_chinese_scripts_are_told_apart() -> None:
    assert main_language(["选择这个选项", "選擇這個選項"]) == "zh"
    assert main_language(["このオプションを選択します", "ドキュメント"]) == "ja"
    assert (
        main_language(
            [
                "Wählen Sie die Datei aus, die Sie öffnen möchten.",
                "Das Dokument wird gespeichert, wenn Sie es schließen.",
            ]
        )
        == "de"
    )
    assert Chinese("zh-TW").wanted == "traditional"
    assert Chinese("zh_Hans").wanted == "simplified"


def test_near_texts_are_found_and_others_are_not() -> None:
    texts = [nearness.plain(source) for source, _ in pairs(800, 500)]
    texts = list(dict.fromkeys(text for text in texts if len(text) > 60))
    draw = random.Random(0)
    changed = []
    for text in texts:
        at = draw.randrange(len(text) - 4)
        changed.append(text[:at] + "qvx" + text[at + 3 :])
    hits = nearness.matches(nearness.bands_of(changed), nearness.bands_of(texts))
    right = sum(
        (i in hits and i in hits[i]) or any(texts[j] == texts[i] for j in hits.get(i, [])) for i in range(len(texts))
    )
    assert right >= 0.97 * len(texts)
    pairs_compared = sum(map(len, nearness.candidates(nearness.bands_of(texts)).values()))
    assert pairs_compared < 20 * len(texts)


def test_mending_changes_nothing_that_is_well() -> None:
    for source, target in pairs(500, 7000):
        for text in (source, target):
            if (
                text == text.strip()
                and "\u00a0" not in text
                and not any("\x80" <= char <= "\x9f" or char == "\xad" for char in text)
            ):
                mended, kinds = mend(text)
                assert mended == text or kinds == ["spacing"], (text, kinds)


def test_a_cleaned_copy_has_none_of_what_is_safe_to_mend_or_drop(tmp_path: Path) -> None:
    spoiled = spoil(tmp_path, 5)
    settings = DataSettings(train=str(spoiled.path), dev=str(spoiled.dev))
    examined = examine(settings, "pairs")
    out = tmp_path / "clean.tsv.gz"
    counts = clean(settings, "pairs", examined, str(out))
    before = {group.kind: group.count for group in examined.groups}
    assert counts["unreadable"] == before["unreadable"]
    assert counts["duplicate"] == before["duplicate"]
    assert counts["leak"] == before["leak"]
    again = {group.kind for group in examine(settings.model_copy(update={"train": (str(out),)}), "pairs").groups}
    cured = {
        "unreadable",
        "empty",
        "duplicate",
        "leak",
        "control",
        "invisible",
        "byte-order-mark",
        "line-ends",
        "width",
        "spacing",
    }
    assert cured & {group.kind for group in examined.groups} == cured
    assert not cured & again
    assert spoiled.path.stat().st_size > 1000
    with pytest.raises(DataError, match="nothing is overwritten"):
        clean(settings, "pairs", examined, str(out))
    assert not list(tmp_path.glob("*.tmp-*"))


def test_parallel_files_and_other_formats_are_cleaned_too(tmp_path: Path) -> None:
    en, zh = write(tmp_path / "a.en", "one\ntwo\n\nthree \n"), write(tmp_path / "a.zh", "一\n二\n三\n四\n")
    settings = DataSettings(train=(en, zh), dev=0)
    assert clean(settings, "pairs", examine(settings, "pairs"), str(tmp_path / "b")) == {"empty": 1, "spacing": 1}
    assert (tmp_path / "b.en").read_text() == "one\ntwo\nthree\n"
    assert (tmp_path / "b.zh").read_text() == "一\n二\n四\n"
    csv = write(tmp_path / "a.csv", 'source,target\n"a, b",c\nd,\n')
    settings = DataSettings(train=csv, dev=0)
    clean(settings, "pairs", examine(settings, "pairs"), str(tmp_path / "c.jsonl"))
    assert (tmp_path / "c.jsonl").read_text() == '{"source": "a, b", "target": "c"}\n'
    with pytest.raises(DataError, match=r"(?s)cannot be written|\.csv is not what"):
        clean(settings, "pairs", examine(settings, "pairs"), str(tmp_path / "c.csv"))
    documents = write(tmp_path / "a.txt", "one\nline\n\ntwo\n\none\nline\n\nthree\n")
    settings = DataSettings(train=documents, dev=0)
    assert clean(settings, "texts", examine(settings, "texts"), str(tmp_path / "d.txt")) == {"duplicate": 1}
    assert (tmp_path / "d.txt").read_text() == "one\nline\n\ntwo\n\n\nthree\n"


def test_the_disk_is_asked_to_keep_its_promises(tmp_path: Path) -> None:
    disk = probe_disk(tmp_path, most=2**20)
    assert disk.broken == ()
    assert disk.write > 0
    assert disk.sync > 0
    assert list(tmp_path.iterdir()) == []
    assert file_system(Path("/proc")) in ("proc", "unknown")
