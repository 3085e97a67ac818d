"""A golden dirty set: for each file a written outcome, refused with these words or read with this count, and never a traceback.

The doctor reads each one too: it never fails, and names at least one line where the reader refuses.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ciyuan.data import DataSettings
from ciyuan.data.checks import Corpus, Shape
from ciyuan.doctor import examine
from ciyuan.errors import DataError
from torture.files import HungError, limited
from torture.harness import Case, Tally, broken, replaced


@dataclass(frozen=True)
class Dirty:
    """said: of the refusal; or else how many examples are left, and the reasons why others are not."""

    name: str
    content: bytes
    said: str = ""
    examples: int = 0
    dropped: tuple[tuple[str, int], ...] = ()
    shape: Shape = "pairs"


GOOD = b"one\tuno\ntwo\tdos\n"
OBJECT = b'{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n'
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {"context": "one two", "qas": [{"question": "q", "answers": [{"text": "two", "answer_start": 4}]}]}
            ]
        }
    ]
}


def dirty(long: int) -> list[Dirty]:
    """long: bytes of the longest line."""
    return [
        Dirty("bad-utf8.tsv", GOOD + b"th\xffree\ttres\n", said="bad-utf8.tsv:3: is not UTF-8: byte 0xff at byte 19 of the file"),
        Dirty("gb18030.tsv", "中文\t英文\n".encode("gb18030"), said="gb18030.tsv:1: is not UTF-8"),
        Dirty("bom.tsv", b"\xef\xbb\xbf" + GOOD, examples=2),
        Dirty("utf16.tsv", GOOD.decode().encode("utf-16"), said="utf16.tsv:1: is UTF-16, not UTF-8"),
        Dirty("utf16-no-mark.tsv", GOOD.decode().encode("utf-16-le"), said="utf16-no-mark.tsv:1: a NUL at byte 2"),
        Dirty("utf32.tsv", GOOD.decode().encode("utf-32"), said="is UTF-32, not UTF-8"),
        Dirty("nul.tsv", GOOD + b"a\x00\tb\n", said="nul.tsv:3: a NUL at byte 18"),
        Dirty("surrogate.jsonl", OBJECT + b'{"text": "\\ud800", "label": "a"}\n', said="surrogate.jsonl:3: half of a surrogate",
              shape="labelled"),
        Dirty("surrogate-bytes.tsv", GOOD + b"\xed\xa0\x80\tb\n", said="surrogate-bytes.tsv:3: is not UTF-8"),
        Dirty("nul-escape.jsonl", OBJECT + b'{"text": "\\u0000", "label": "a"}\n', said="nul-escape.jsonl:3: a NUL",
        shape="labelled"),
        Dirty("line-separator.tsv", "one\u2028more\tuno\u0085más\ntwo\tdos\n".encode(), examples=2),
        Dirty("mixed-ends.tsv", b"one\tuno\r\ntwo\tdos\nthree\ttres\r\n", examples=3),
        Dirty("no-last-end.tsv", b"one\tuno\ntwo\tdos", examples=2),
        Dirty("empty.tsv", b"", said="empty.tsv: is empty"),
        Dirty("empty.tsv.gz", gzip.compress(b""), said="empty.tsv.gz: is empty"),
        Dirty("blank-line.tsv", GOOD + b"\n", said="blank-line.tsv:3: 1 column where the first line has 2"),
        Dirty("too-many.tsv", GOOD + b"a\tb\tc\n", said="too-many.tsv:3: 3 columns where the first line has 2"),
        Dirty("empty-sides.tsv", GOOD + b"\tb\na\t \n", examples=2, dropped=(("empty source", 1), ("empty target", 1))),
        Dirty("twice.tsv", GOOD + GOOD, examples=2, dropped=(("duplicate", 2),)),
        Dirty("long-line.tsv", GOOD + b"a\t" + b"b" * long + b"\n", said="long-line.tsv:3: the line is longer than 16 MiB"),
        Dirty("long-line.txt", b"x" * long, said="long-line.txt:1: the line is longer than 16 MiB", shape="texts"),
        Dirty("cut.tsv.gz", gzip.compress(GOOD * 500)[:40], said="the gzip data ends too soon"),
        Dirty("not-gzip.tsv.gz", GOOD, said="is not whole gzip data"),
        Dirty("not-xz.tsv.xz", GOOD, said="is not whole xz data"),
        Dirty("not-zstd.tsv.zst", GOOD, said="is not whole zstd data"),
        Dirty("not-parquet.parquet", GOOD, said="cannot be read as Parquet"),
        Dirty("key-twice.jsonl", OBJECT + b'{"text": "a", "text": "b", "label": "c"}\n',
        said='key-twice.jsonl:3: the key "text" stands',
              shape="labelled"),
        Dirty("number.jsonl", OBJECT + b'{"text": 7, "label": "c"}\n', said='number.jsonl:3: field "text" is a number',
        shape="labelled"),
        Dirty("list.jsonl", OBJECT + b"[1, 2]\n", said="list.jsonl:3: is a JSON list", shape="labelled"),
        Dirty("lacking.jsonl", OBJECT + b'{"text": "three"}\n', said='lacking.jsonl:3: no field "label"', shape="labelled"),
        Dirty("broken.jsonl", OBJECT + b'{"text": "thr\n', said="broken.jsonl:3: is not JSON", shape="labelled"),
        Dirty("deep.jsonl", OBJECT + b'{"text": ' + b"[" * 200_000 + b"\n", said="deep.jsonl:3: ", shape="labelled"),
        Dirty("null.jsonl", OBJECT + b'{"text": null, "label": "a"}\n', examples=2, dropped=(("empty text", 1),), shape="labelled"),
        Dirty("quote.csv", b'source,target\none,"uno\ntwo,dos\n', said="quote.csv:2: cannot be read as CSV"),
        Dirty("twice-named.csv", b"source,source\na,b\n", said='names "source" twice'),
        Dirty("semicolons.csv", b"source;target\na;b\n", said="parted by semicolons"),
        Dirty("not-xml.tmx", b"<tmx><body><tu>", said="not-xml.tmx"),
        Dirty("entity.tmx", b'<!DOCTYPE tmx [<!ENTITY a "b">]><tmx><body/></tmx>', said="entity.tmx"),
        Dirty("html.tmx", b"<html/>", said="is <html>, not <tmx>"),
        Dirty("not-po.po", b"hello\n", said="cannot be read as PO"),
        Dirty("half.po", b"msgid one\n", said="passed over: 1 untranslated"),
        Dirty("fuzzy.po", b'msgid "a"\nmsgstr "b"\n\n#, fuzzy\nmsgid "c"\nmsgstr "d"\n\nmsgid "e"\nmsgstr ""\n', examples=1,
              dropped=(("fuzzy", 1), ("untranslated", 1))),
        Dirty("squad.json", json.dumps(SQUAD).encode(), examples=1, shape="answers"),
        Dirty("list.json", b"[]", said="is a JSON list, not SQuAD", shape="answers"),
        Dirty("roles.jsonl", b'{"messages": [{"role": "wizard", "content": "x"}]}\n',
        said='roles.jsonl:1: "wizard" is no role', shape="chats"),
    ]  # fmt: skip


def run(tally: Tally) -> None:
    files = dirty(100 * 2**20 if tally.full else 17 * 2**20)
    with broken(MUTANTS, tally.mutant):
        for case in tally.cases(len(files)):
            _one(tally, case, files[case.number])


def _one(tally: Tally, case: Case, file: Dirty) -> None:
    path = case.folder / file.name
    path.write_bytes(file.content)
    settings = DataSettings(train=str(path), dev=0)
    try:
        with limited(60):
            corpus = Corpus(settings, file.shape)
            found, dropped = list(corpus.train()), corpus.verdicts.dropped
    except DataError as error:
        if not file.said or file.said not in str(error) or len(str(error).splitlines()) > 3:
            tally.fail(case, f"{file.name}: {error}")
    except (Exception, HungError) as error:  # noqa: BLE001 (whatever else it is, it is a defect)
        tally.fail(case, f"{file.name}: {type(error).__name__}: {error}")
    else:
        if file.said or len(found) != file.examples or dropped != dict(file.dropped):
            tally.fail(case, f"{file.name}: {len(found)} examples, dropped {dropped}")
    _doctor(tally, case, file, settings)


def _doctor(tally: Tally, case: Case, file: Dirty, settings: DataSettings) -> None:
    try:
        with limited(60):
            examined = examine(settings, file.shape)
    except DataError as error:
        if "is empty" not in str(error):
            tally.fail(case, f"the doctor gave up on {file.name}: {error}")
    except (Exception, HungError) as error:  # noqa: BLE001
        tally.fail(case, f"the doctor, {file.name}: {type(error).__name__}: {error}")
    else:
        if file.said and not examined.count("error"):
            tally.fail(case, f"the doctor found nothing in {file.name}")


@contextmanager
def _passing_over() -> Iterator[None]:
    """A reader that goes on after what it cannot read, without a word."""

    def refuse(self: Any, error: DataError) -> None:
        pass

    from ciyuan.data.readers import Tally as Reading

    with replaced(Reading, "refuse", refuse):
        yield


MUTANTS = {"a reader that passes over what it cannot read": _passing_over}
