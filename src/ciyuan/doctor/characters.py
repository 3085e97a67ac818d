"""Characters that should not be in a text, or not in this one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context, OneByOne, found, prose
from ciyuan.doctor.findings import Finding

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
INVISIBLE = re.compile(r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
                       r"\ufff9-\ufffb\U000e0000-\U000e007f]")  # fmt: skip
JOINED = re.compile(
    r"[\u0590-\u08ff\u0900-\u109f\u1780-\u18af\ufb1d-\ufdff\ufe0f\ufe70-\ufefe\U0001f000-\U0001faff\u2190-\u27bf]"
)
"""Scripts and signs in which joiners, direction marks and selectors have work to do."""
LOST = re.compile(r"[\ufffd\ufffe\uffff\ue000-\uf8ff\U000f0000-\U0010ffff]")
QUESTIONS = re.compile(r"\?{3,}")
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|ldquo|rdquo|hellip|mdash|ndash|#\d{2,6}|#x[0-9a-fA-F]{2,6});")
ELEMENT = re.compile(
    r"</?(?:a|p|b|i|u|br|hr|em|strong|span|div|font|img|table|tbody|tr|td|th|ul|ol|li|h[1-6]|script|style|sup|sub|small|center|"
    r"blockquote|body|html|head|meta|link|input|form|iframe|section|article)(?:\s[^<>]*)?/?>", re.IGNORECASE)  # fmt: skip
MARKUP = re.compile(f"{ENTITY.pattern}|{ELEMENT.pattern}", re.IGNORECASE)
ESCAPES = re.compile(
    r"\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|(?:%(?:[89a-fA-F][0-9a-fA-F])){2,}|\\U000[0-9a-fA-F]{5}|=(?:[89A-F][0-9A-F]=){2,}"
)
SAME_WORD = re.compile(r"\b([^\W\d_]{2,})(?:[\s,，、.。!！]+\1\b){4,}", re.IGNORECASE)
SAME_LETTER = re.compile(r"([^\W\d_])\1{9,}")
SAME_HAN = re.compile(rf"([{HAN}]{{1,8}}[，。、！]?)\1{{4,}}")
TWO_ALPHABETS = re.compile(r"[A-Za-z][\u0400-\u04ff]|[\u0400-\u04ff][A-Za-z]")
FULL_WIDTH = re.compile(r"[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff61-\uff9f]")
HALF_PUNCTUATION = re.compile(rf"[{HAN}][,;?](?=[{HAN}])")
ODD_SPACE = re.compile(r"[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
VOID = frozenset({"null", "(null)", "none", "nan", "n/a", "#n/a", "nil", "undefined", "#ref!", "#value!", "#name?",
"#div/0!", "<na>",
                  "[deleted]", "[removed]", "tbd", "todo", "xxx", "lorem ipsum", "缺失", "待翻译", "未翻译"})  # fmt: skip
A_TEXT = 12
"""Characters of the other side from which None is hardly its translation."""


class Characters(OneByOne):
    """Everything that one text shows by its characters alone."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.passage: str | None = None

    def look(self, record: Record) -> Iterator[Finding]:
        sides = list(prose(record))
        last, self.passage = self.passage, record.fields.get("passage")
        for role, text in sides:
            if text and not (role == "passage" and text == last):
                yield from self._look(record, role, text)
        voids = [(role, text) for role, text in sides if len(text) < 20 and text.strip().casefold() in VOID]
        if voids and (len(sides) == 1 or any(len(text) > A_TEXT for side in sides if (text := side[1]) not in VOID)):
            yield found("void", record, voids[0][1], voids[0][0])

    def _look(self, record: Record, role: str, text: str) -> Iterator[Finding]:
        for kind, note, find in ASCII_SIGNS if text.isascii() else SIGNS:
            at = find(text)
            if at is not None and not (kind == "spacing" and self.context.shape == "texts"):
                if kind in ("html", "escapes") and self.context.shape == "pairs" and _on_both_sides(kind, record):
                    continue  # a translation memory keeps its tags on both sides: that is for `tags` to judge
                yield found(kind, record, text, f"{role}: {note}" if note else role, at=at)


def _on_both_sides(kind: str, record: Record) -> bool:
    return all((MARKUP if kind == "html" else ESCAPES).search(text) for text in record.fields.values())


def mojibake(text: str) -> int | None:
    """Where text was decoded in another encoding than its own; None where it was not."""
    from ftfy.badness import BADNESS_RE, is_bad

    if not is_bad(text):
        return None
    match = BADNESS_RE.search(text)
    return 0 if match is None else match.start()


def control(text: str) -> int | None:
    return None if mojibake(text) is not None else _first(CONTROL)(text)


def invisible(text: str) -> int | None:
    match = INVISIBLE.search(text)
    return None if match is None or JOINED.search(text) or mojibake(text) is not None else match.start()


def lost(text: str) -> int | None:
    match = LOST.search(text)
    if match is not None:
        return match.start()
    marks = sum(map(len, QUESTIONS.findall(text)))
    return text.index("???") if marks and 3 * marks > len(text) and marks > 4 else None


def repetition(text: str) -> int | None:
    for pattern in (SAME_WORD, SAME_LETTER) if text.isascii() else (SAME_WORD, SAME_LETTER, SAME_HAN):
        match = pattern.search(text)
        if match is not None:
            return match.start()
    return None


def decomposed(text: str) -> int | None:
    if unicodedata.is_normalized("NFC", text):
        return None
    composed = unicodedata.normalize("NFC", text)
    return next((i for i, (a, b) in enumerate(zip(text, composed)) if a != b), len(composed))


def spacing(text: str) -> int | None:
    if text[0].isspace() or text[-1].isspace():
        return 0 if text[0].isspace() else len(text) - 1
    return _first(ODD_SPACE)(text)


@lru_cache
def _first(pattern: re.Pattern[str]) -> Callable[[str], int | None]:
    def find(text: str) -> int | None:
        match = pattern.search(text)
        return None if match is None else match.start()

    return find


Sign = tuple[str, str, Callable[[str], "int | None"]]

SIGNS: Sequence[Sign] = (
    ("mojibake", "", mojibake),
    ("lost-characters", "", lost),
    ("byte-order-mark", "", _first(re.compile("\ufeff"))),
    ("control", "", control),
    ("invisible", "", invisible),
    ("decomposed", "", decomposed),
    ("spacing", "", spacing),
    ("html", "", _first(MARKUP)),
    ("escapes", "", _first(ESCAPES)),
    ("repetition", "", repetition),
    ("homoglyphs", "", _first(TWO_ALPHABETS)),
    ("width", "", _first(FULL_WIDTH)),
    ("punctuation", "", _first(HALF_PUNCTUATION)),
)  # fmt: skip
"""(kind, what more to say, where in a text it first is)"""

ASCII_SIGNS: Sequence[Sign] = tuple(
    sign for sign in SIGNS if sign[0] in ("lost-characters", "control", "spacing", "html", "escapes", "repetition")
)
