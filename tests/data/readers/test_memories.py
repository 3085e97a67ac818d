from __future__ import annotations

from pathlib import Path

import pytest

from ciyuan.data.readers import Tally, files, memories, read_pairs
from ciyuan.errors import DataError
from tests.data.writing import COMPRESS, write

HEAD = '<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header srclang="en"/><body>\n'


def unit(**sides: str) -> str:
    tuvs = "".join(f'<tuv xml:lang="{lang.replace("_", "-")}"><seg>{text}</seg></tuv>' for lang, text in sides.items())
    return f"<tu>{tuvs}</tu>\n"


def tmx(*units: str) -> str:
    return HEAD + "".join(units) + "</body></tmx>\n"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_tmx_languages_match_in_any_region(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.tmx{suffix}", tmx(unit(zh_CN="甲&amp;乙\u2028", en_US="A&amp;B"), unit(EN="C", de="D")))
    tally = Tally()
    (record,) = read_pairs([path], "en", "zh", tally=tally)
    assert (record.fields, record.line) == ({"source": "A&B", "target": "甲&乙\u2028"}, 4)
    assert tally.skipped == {"no zh": 1}


def test_tmx_keeps_the_text_of_inline_codes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tmx", tmx(unit(en='Press <bpt i="1">&lt;b&gt;</bpt>OK<hi>!</hi>', de="Drücken")))
    assert next(read_pairs([path])).fields == {"source": "Press <b>OK!", "target": "Drücken"}


def test_tmx_in_utf16_is_read_as_it_declares(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tmx", tmx(unit(en="a", zh="甲")).replace("1.0", '1.0" encoding="UTF-16', 1).encode("utf-16")
    )
    assert next(read_pairs([path])).fields == {"source": "a", "target": "甲"}


def test_tmx_of_three_languages_must_be_told_which(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tmx", tmx(unit(en="a", de="b", zh="c")))
    with pytest.raises(DataError, match=r"among en, de, zh[;\n] ?name them with data\.source"):
        list(read_pairs([path]))
    with pytest.raises(DataError, match=r"no unit has both en and fr\n.*de, en, zh"):
        list(read_pairs([path], "en", "fr"))


def test_tmx_faults_are_named(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE tmx [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><tmx><body>&b;</body></tmx>'
    with pytest.raises(DataError, match="declares entities"):
        list(read_pairs([write(tmp_path / "bomb.tmx", bomb)]))
    outside = '<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]><tmx><body>&a;</body></tmx>'
    with pytest.raises(DataError, match="declares entities"):
        list(read_pairs([write(tmp_path / "outside.tmx", outside)]))
    with pytest.raises(DataError, match=r"cut\.tmx:5: is not well-formed XML"):
        list(read_pairs([write(tmp_path / "cut.tmx", tmx(unit(en="a", de="b")).removesuffix("</body></tmx>\n"))]))
    with pytest.raises(DataError, match="not well-formed"):
        list(read_pairs([write(tmp_path / "bad.tmx", tmx(unit(en="a\xff", de="b")).encode("latin-1"))]))
    with pytest.raises(DataError, match="is <html>, not <tmx>"):
        list(read_pairs([write(tmp_path / "html.tmx", "<html><tu/></html>")], "en", "zh"))


@pytest.mark.parametrize("text", ["<seg>" + "x" * 2**21, "<" + "x" * 2**21, "<tuv lang='" + "x" * 2**21])
def test_an_endless_unit_is_refused_before_memory_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(memories, "MAX_LINE", 2**19)
    with pytest.raises(DataError, match=r"a unit longer than|not well-formed"):
        list(read_pairs([write(tmp_path / "a.tmx", HEAD + "<tu>" + text)]))


def test_tmx_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tmx", tmx(*[unit(en=f"a{i}", de=f"b{i}") for i in range(5000)]) + "<broken")
    records = read_pairs([path])
    assert next(records).fields["source"] == "a0"  # the fault at the end is not yet seen
    with pytest.raises(DataError):
        list(records)


PO = r"""
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"
"Language: zh_CN\n"

#: a.c:1
msgid "File"
msgstr "文件"

#, fuzzy
msgid "Edit"
msgstr "编"

msgid "View"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d 个文件"

msgctxt "menu"
msgid "two\n"
"lines\t\"q\""
msgstr "两 行"

#~ msgid "Old"
#~ msgstr "旧"
"""


@pytest.mark.parametrize("suffix", COMPRESS)
def test_po_skips_fuzzy_obsolete_and_untranslated_and_counts_them(tmp_path: Path, suffix: str) -> None:
    tally = Tally()
    path = write(tmp_path / f"a.po{suffix}", PO.replace("两 行", "两\u2028行"))
    records = list(read_pairs([path], "en", "zh", tally=tally))
    assert [tuple(r.fields.values()) for r in records] == [
        ("File", "文件"),
        ("%d files", "%d 个文件"),
        ('two\nlines\t"q"', "两\u2028行"),
    ]
    assert tally.skipped == {"fuzzy": 1, "untranslated": 1, "obsolete": 1}
    assert records[0].line == 7  # where its comments begin
    assert not tally.notes


def test_po_pairs_singular_with_the_first_form_and_plural_with_the_last(tmp_path: Path) -> None:
    text = 'msgid "a"\nmsgid_plural "b"\nmsgstr[0] "x"\nmsgstr[1] "y"\nmsgstr[2] "z"\n'
    assert [tuple(r.fields.values()) for r in read_pairs([write(tmp_path / "a.po", text)])] == [("a", "x"), ("b", "z")]
    unnumbered = 'msgid "a"\nmsgid_plural "b"\nmsgstr "x"\n'
    assert [tuple(r.fields.values()) for r in read_pairs([write(tmp_path / "b.po", unnumbered)])] == [("b", "x")]


def test_po_is_read_backwards_when_its_language_is_the_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.po", PO)
    assert next(read_pairs([path], "zh", "en")).fields == {"source": "文件", "target": "File"}
    tally = Tally()
    list(read_pairs([path], "en", "de", tally=tally))
    assert "its header says zh_CN, not de" in next(iter(tally.notes))


def test_po_faults_are_data_errors(tmp_path: Path) -> None:
    for content in ('msgid "a\nmsgstr "b"\n', 'msgstr[x] "a"\n', "hello\n"):
        with pytest.raises(DataError, match=r"a\.po: cannot be read as PO|holds no entries"):
            list(read_pairs([write(tmp_path / "a.po", content)]))
    with pytest.raises(DataError, match=r"b\.po:1: is not UTF-8"):
        list(read_pairs([write(tmp_path / "b.po", b'msgid "\xb0\xa1"\n')]))
    assert files.MAX_LINE > 2**20
