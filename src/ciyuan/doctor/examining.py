"""What a check is given, and what is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ciyuan.data.checks import Corpus, Shape
from ciyuan.data.readers import Record
from ciyuan.doctor.findings import Finding, excerpt
from ciyuan.text import Tokenizer

Places = Sequence[int]


@dataclass(frozen=True)
class Context:
    """What is known before the examples are looked at, one by one and in their order.

    languages: by role, as codes such as zh-CN; a role of no known language is not in it. dev: the examples to measure on.
    sample: some of the first examples.
    reread: the records at these places, counted from 0, upwards and without repetition. near: whether to look for near repetitions.
    """

    corpus: Corpus
    languages: Mapping[str, str]
    reread: Callable[[Places], Iterator[tuple[int, Record]]]
    dev: Sequence[Record] = ()
    sample: Sequence[Record] = ()
    tokenizer: Tokenizer | None = None
    max_length: int = 256
    near: bool = True

    @property
    def shape(self) -> Shape:
        return self.corpus.shape

    def language(self, role: str) -> str:
        """The language of a role without its region; empty where unknown."""
        return self.languages.get(role, "").replace("_", "-").split("-")[0].lower()


class Check(Protocol):
    """Looks at every example once, then says what only all of them together show."""

    def look(self, record: Record) -> Iterable[Finding]: ...
    def conclude(self) -> Iterable[Finding]: ...


class OneByOne:
    """A check that needs nothing but the example at hand."""

    def conclude(self) -> Iterable[Finding]:
        return ()


def found(kind: str, record: Record, text: str = "", note: str = "", *, at: int = 0) -> Finding:
    """Something about a record. text: what to show, around the character `at`; else its first text."""
    return Finding(kind, record.file, record.line, excerpt(text or next(iter(record.fields.values()), ""), at), note)


def prose(record: Record) -> Iterator[tuple[str, str]]:
    """(role, text) of what a model reads and writes: all but labels."""
    if record.turns:
        yield from record.turns
        return
    for role, text in record.fields.items():
        if role != "label":
            yield role, text
