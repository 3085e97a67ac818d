"""Where sentences end, in Chinese, English, German and languages that write as they do. Nothing is lost: the pieces join to the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_CLOSING = r"[」』”’）》〉】〕\"')\]]*"
_FULL_WIDTH = re.compile(rf"[。！？；｡]+{_CLOSING}\s*|……{_CLOSING}\s*|\n+\s*")
_SPACED = re.compile(rf"[.!?…]+{_CLOSING}\s+(?=[^\W\d_a-z]|[\d\"'“‘«(\[])|[。！？；｡]+{_CLOSING}\s*|\n+\s*")

_ABBREVIATIONS: dict[str, frozenset[str]] = {
    "en": frozenset("mr mrs ms dr prof sr jr st vs etc fig figs no nos vol ed eds e.g i.e cf al approx inc ltd co u.s p pp".split()),
    "de": frozenset(
        "hr fr dr prof nr bzw ca z.b d.h u.a usw vgl abb s str tel max min ggf evtl inkl zzgl st bspw sog u.u o.ä".split()
    ),
}
_NAME = re.compile(r"(?:^|[\s(\[\"'“‘])([^\s(\[\"'“‘]+)$")


def split(text: str, language: str | None = None) -> list[str]:
    """Sentences with the space that follows them: "".join(split(text)) == text.

    language: a code such as "en" or "zh-CN", for its abbreviations; None takes English's and German's together.

    >>> split("Mr. Li opens it. Click OK!")
    ['Mr. Li opens it. ', 'Click OK!']
    >>> split("打开文件。单击「确定」。")
    ['打开文件。', '单击「确定」。']
    """
    base = (language or "").split("-")[0].split("_")[0].lower()
    if base in ("zh", "ja", "yue", "wuu", "lzh"):
        return _cut(text, _FULL_WIDTH, frozenset())
    known = _ABBREVIATIONS.get(base)
    if known is None:
        known = frozenset().union(*_ABBREVIATIONS.values()) if not base else frozenset()
    return _cut(text, _SPACED, known)


def regroup(sentences: Sequence[str], length_of: Callable[[str], int], limit: int) -> list[str]:
    """Neighbouring sentences put together as long as they stay within the limit; one that is longer alone stays alone.

    length_of: of a text, in whatever unit `limit` is. The groups join to the same text.
    """
    groups: list[str] = []
    for sentence in sentences:
        if groups and length_of(groups[-1] + sentence) <= limit:
            groups[-1] += sentence
        else:
            groups.append(sentence)
    return groups


def _cut(text: str, ends: re.Pattern[str], abbreviations: frozenset[str]) -> list[str]:
    pieces, start = [], 0
    for match in ends.finditer(text):
        if match.group().startswith(".") and _abbreviated(text[start : match.start()], abbreviations):
            continue
        pieces.append(text[start : match.end()])
        start = match.end()
    if start < len(text):
        pieces.append(text[start:])
    return pieces


def _abbreviated(before: str, abbreviations: frozenset[str]) -> bool:
    """Whether what stands before a full stop is an abbreviation, or the initial of a name."""
    word = _NAME.search(before)
    if word is None:
        return False
    name = word.group(1)
    return name.lower() in abbreviations or (len(name) == 1 and name.isupper() and name.isascii())
