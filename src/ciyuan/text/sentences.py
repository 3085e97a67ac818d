"""Where sentences end, in Chinese, English, German and their like. Nothing is lost: the pieces join to the text.

'See p. 3. Choose File - Print... 「好。」他说。'  →  'See p. 3. ' · 'Choose File - Print... ' · '「好。」' · '他说。'
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

_CLOSING = r"[」』”’）》〉】〕\"')\]]*"
_FULL_WIDTH = rf"[。！？；｡]+{_CLOSING}\s*"
_UNSPACED_END = re.compile(rf"{_FULL_WIDTH}|……{_CLOSING}\s*|\n+\s*")
_SPACED_END = re.compile(rf"[.!?…]+{_CLOSING}\s+(?=[^\W_a-z]|[\"'“‘«(\[「])|{_FULL_WIDTH}|\n+\s*")

_ENGLISH = (
    "mr mrs ms dr prof sr jr st vs etc fig figs no nos vol ed eds e.g i.e cf al approx inc ltd co u.s p pp p.m a.m"
)
_GERMAN = "hr fr dr prof nr bzw ca z.b d.h u.a usw vgl abb s str tel max min ggf evtl inkl zzgl st bspw sog u.u o.ä"
_ABBREVIATIONS = {"en": frozenset(_ENGLISH.split(" ")), "de": frozenset(_GERMAN.split(" "))}
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘])([^\s(\[\"'“‘]+)$")

_CLAUSE_END = re.compile(r"[,;:，；：、—]\s*")
_SPACE_END = re.compile(r"\s+")
_ANYWHERE = re.compile(r"")


def split(text: str, language: str | None = None) -> list[str]:
    """Sentences, each with the space and the line breaks that follow it: "".join(split(text)) == text.

    language: a code such as "en" or "zh-CN", for its abbreviations; None takes English's and German's together.

    >>> split("Mr. Li opens it. Click OK!")
    ['Mr. Li opens it. ', 'Click OK!']
    >>> split("打开文件。单击「确定」。")
    ['打开文件。', '单击「确定」。']
    """
    base = (language or "").replace("_", "-").split("-")[0].lower()
    if base in ("zh", "ja", "yue", "wuu", "lzh"):
        return _after(text, (match.end() for match in _UNSPACED_END.finditer(text)))
    known = frozenset().union(*_ABBREVIATIONS.values()) if not base else _ABBREVIATIONS.get(base, frozenset())
    return _after(text, _spaced_ends(text, known))


@dataclass(frozen=True)
class Piece:
    """A run of neighbouring sentences, and what parts it from the next: a sentence's end, a clause's, or nothing ("hard")."""

    text: str
    cut: Literal["sentence", "clause", "hard"] = "sentence"


def regroup(sentences: Sequence[str], length_of: Callable[[str], int], limit: int) -> list[str]:
    """Neighbours put together as long as they stay within the limit, longer sentences cut: the pieces join to the same text."""
    return [piece.text for piece in regroup_flagged(sentences, length_of, limit)]


def regroup_flagged(sentences: Sequence[str], length_of: Callable[[str], int], limit: int) -> list[Piece]:
    """`regroup`, each piece with what parts it from the next.

    length_of: of a text, in whatever unit `limit` is. Only a single character may be longer than the limit.
    Raises ValueError if the limit is not positive.
    """
    if limit < 1:
        raise ValueError(f"a limit of {limit} leaves no room for text")
    pieces: list[Piece] = []
    for sentence in sentences:
        for part in _within(Piece(sentence), length_of, limit):
            if pieces and length_of(pieces[-1].text + part.text) <= limit:
                pieces[-1] = Piece(pieces[-1].text + part.text, part.cut)
            else:
                pieces.append(part)
    return pieces


def _spaced_ends(text: str, abbreviations: frozenset[str]) -> Iterator[int]:
    start = 0
    for match in _SPACED_END.finditer(text):
        if not (match.group().rstrip() == "." and _abbreviated(text[start : match.start()], abbreviations)):
            yield match.end()
            start = match.end()


def _abbreviated(before: str, abbreviations: frozenset[str]) -> bool:
    """Whether what stands before a full stop is an abbreviation, or the initial of a name."""
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    name = word.group(1)
    return name.lower() in abbreviations or (len(name) == 1 and name.isupper() and name.isascii())


def _within(piece: Piece, length_of: Callable[[str], int], limit: int) -> list[Piece]:
    """A piece cut near its middle, and again, until each part is within the limit: after a clause, else a space, else anywhere."""
    text = piece.text
    if len(text) < 2 or length_of(text) <= limit:
        return [piece]
    middle, margin = len(text) // 2, max(1, len(text) // 4)
    cut: Literal["clause", "hard"] = "clause"
    for pattern in (_CLAUSE_END, _SPACE_END, _ANYWHERE):
        ends = (match.end() for match in pattern.finditer(text))
        if places := [end for end in ends if margin <= end <= len(text) - margin]:
            break
        cut = "hard"
    place = min(places, key=lambda end: abs(end - middle))
    parts = (Piece(text[:place], cut), Piece(text[place:], piece.cut))
    return [smaller for part in parts for smaller in _within(part, length_of, limit)]


def _after(text: str, ends: Iterable[int]) -> list[str]:
    """The text cut after these places."""
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *ends, len(text)])]
    return [piece for piece in pieces if piece]
