"""Parallel files that differ by lines, or have slipped: refused before training, every one.

A third of the cases lack lines on one side; in a third a line was lost on one side, and another added so that the counts agree; a
third are whole, and must not be refused.
"""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ciyuan.data import Corpus, DataSettings
from ciyuan.data.checks import _Shift
from ciyuan.data.readers import tables
from ciyuan.doctor.alignment import Alignment
from ciyuan.doctor.preflight import refuse_slips
from ciyuan.errors import DataError
from torture.harness import Case, Tally, broken, replaced

DATA = Path(__file__).resolve().parent.parent / "examples/data/help.en-zh.train.tsv.xz"


@cache
def pairs() -> list[tuple[str, str]]:
    with lzma.open(DATA, "rt", encoding="utf-8") as stream:
        rows = [line.rstrip("\n").split("\t") for line in stream]
    return [(source, target) for source, target in rows]


def run(tally: Tally) -> None:
    with broken(MUTANTS, tally.mutant):
        for case in tally.cases(tally.size(fast=30, full=2000)):
            _one(tally, case, WRONG[case.number % 3])


WRONG = ("lines lost", "slipped", "nothing")


def _one(tally: Tally, case: Case, wrong: str) -> None:
    draw = case.draw
    size = draw.randint(300, 1200)
    start = draw.randrange(len(pairs()) - size)
    sources, targets = map(list, zip(*pairs()[start : start + size], strict=True))
    at = draw.randrange(size // 2 if wrong == "slipped" else size)
    lost, side = draw.choice((1, 1, 1, 2, 3)), draw.choice((sources, targets))
    if wrong == "lines lost" and draw.random() < 0.5:
        at = size - lost - draw.randrange(4)  # where it could not be told by how the sides fit
    if wrong != "nothing":
        del side[at : at + lost]
    if wrong == "slipped":
        side += ["More lines than there should be."] * lost
    for name, lines in (("en", sources), ("zh", targets)):
        (case.folder / f"a.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        corpus = Corpus(DataSettings(train=(str(case.folder / "a.en"), str(case.folder / "a.zh")), dev=0))
        list(corpus.train())
        refuse_slips(corpus)
    except DataError as error:
        said = str(error)
        if wrong == "nothing" or not any(word in said for word in ("not parallel", "shifted", "slipped")):
            tally.fail(case, f"{wrong}, and refused with: {said}")
    else:
        if wrong != "nothing":
            tally.fail(case, f"{wrong}, {lost} of {size}, from line {at + 1}, and not refused")


@contextlib.contextmanager
def _blind() -> Iterator[None]:
    with replaced(_Shift, "best", lambda self: 0), replaced(Alignment, "conclude", lambda self: iter(())):
        yield


@contextlib.contextmanager
def _zipping() -> Iterator[None]:
    """A reader that ends with the shorter file."""
    with replaced(tables.itertools, "zip_longest", zip):
        yield


MUTANTS = {"nothing looks at how the sides fit": _blind, "a reader that ends with the shorter file": _zipping}
