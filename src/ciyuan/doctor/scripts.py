"""Which scripts and languages texts are written in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context, found
from ciyuan.doctor.findings import Finding

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SCRIPTS: Mapping[str, str] = {
    "Latin": "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ", "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", "Kana": "\u3041-\u3096\u30a1-\u30fa",
    "Hangul": "\uac00-\ud7a3\u1100-\u11ff\u3131-\u318e", "Cyrillic": "\u0400-\u052f", "Greek": "\u0386-\u03ff\u1f00-\u1fff",
    "Arabic": "\u0620-\u064a\u066e-\u06d3\u0750-\u077f", "Hebrew": "\u05d0-\u05ea", "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff", "Tamil": "\u0b80-\u0bff", "Thai": "\u0e01-\u0e4e", "Georgian": "\u10a0-\u10ff",
    "Armenian": "\u0531-\u0587", "Ethiopic": "\u1200-\u137f", "Khmer": "\u1780-\u17d3", "Myanmar": "\u1000-\u109f",
}  # fmt: skip
WRITTEN_IN: Mapping[str, tuple[str, ...]] = {
    "zh": ("Han",), "ja": ("Kana", "Han"), "ko": ("Hangul",), "ru": ("Cyrillic",), "uk": ("Cyrillic",), "bg": ("Cyrillic",),
    "be": ("Cyrillic",), "mk": ("Cyrillic",), "kk": ("Cyrillic",), "mn": ("Cyrillic",), "el": ("Greek",), "ar": ("Arabic",),
    "fa": ("Arabic",), "ur": ("Arabic",), "ug": ("Arabic",), "he": ("Hebrew",), "hi": ("Devanagari",), "mr": ("Devanagari",),
    "ne": ("Devanagari",), "bn": ("Bengali",), "ta": ("Tamil",), "th": ("Thai",), "ka": ("Georgian",), "hy": ("Armenian",),
    "am": ("Ethiopic",), "km": ("Khmer",), "my": ("Myanmar",),
}  # fmt: skip
"""Scripts of languages that are not written in Latin letters; of several, any."""
TWO_SCRIPTS = frozenset({"sr", "uz", "az", "bs"})
"""Languages of which nothing is asked: they are written in Latin and in Cyrillic."""

_ADDRESS = re.compile(r"(?:https?|ftp|file|vnd\.\S+?):\S+|[\w.+-]+@[\w.-]+|[\w-]+(?:[./\\_:][\w-]+){2,}", re.ASCII)
"""What is spelt alike in every language: addresses, paths, dotted names."""

_FINDERS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items()}
_NOT_LATIN = re.compile("[^\x00-\u024f\u1e00-\u1eff]")

MIN_SURE = 0.999
"""Probability from which another language is believed."""
MIN_LETTERS = 40
"""Letters from which a language can be told from others in the same script."""


def scripts(text: str) -> Counter[str]:
    """Letters by script, addresses and paths left out."""
    text = _ADDRESS.sub(" ", text)
    counts = Counter[str]()
    latin = len(_FINDERS["Latin"].findall(text))
    if latin:
        counts["Latin"] = latin
    if _NOT_LATIN.search(text):
        for name, finder in _FINDERS.items():
            if name != "Latin" and (n := len(finder.findall(text))):
                counts[name] = n
    return counts


def main_language(texts: Sequence[str]) -> str:
    """The language that most of these texts seem to be in; empty where nothing can be told.

    >>> main_language(["词元是一个训练模型的工具。", "Shift 键"])
    'zh'
    """
    counts = sum((scripts(text) for text in texts), Counter[str]())
    if not counts:
        return ""
    total = counts.total()
    if counts["Kana"] > 0.1 * total:
        return "ja"
    script = counts.most_common(1)[0][0]
    if script == "Han" or (counts["Han"] > 0.3 * total):
        return "zh"
    if script not in ("Latin", "Cyrillic", "Arabic", "Devanagari"):
        return next(code for code, written in WRITTEN_IN.items() if written[0] == script)
    said = Counter(identifier().classify(text)[0] for text in texts if len(text) > 20)
    best = said.most_common(1)
    return best[0][0] if best and best[0][1] * 2 > said.total() else ""


@cache
def identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(maxsize=4)
def _between(languages: frozenset[str]) -> LanguageIdentifier | None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    one = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = sorted(languages & set(one.labels))
    if len(known) < 2:
        return None
    one.set_languages(known)
    return one


class Languages:
    """Pairs swapped, copied through or in another language than their column; texts in another script than most."""

    FAMILIAR = 40
    """The most frequent words of a column; a text with a few of them need not be asked its language, which is slow."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.roles = [role for role in context.corpus.columns.roles if role not in ("label", "chat")]
        self.passage: str | None = None
        self.familiar: dict[str, frozenset[str]] = {}
        for role in self.roles:
            counts = Counter(
                word for record in context.sample for word in _WORD.findall(record.fields[role].casefold())
            )
            self.familiar[context.language(role)] = frozenset(word for word, _ in counts.most_common(self.FAMILIAR))
        self.chinese = {role: Chinese(context.languages.get(role, "")) for role in self.roles
                        if context.language(role) == "zh"}  # fmt: skip

    def look(self, record: Record) -> Iterable[Finding]:
        roles = self._new_roles(record)
        for role, chinese in self.chinese.items():
            if role in roles and not _FINDERS["Kana"].search(record.fields[role]):
                chinese.look(record, record.fields[role])
        if self.context.shape != "pairs":
            return self._texts(record, roles)
        texts = [record.fields[role] for role in self.roles]
        return self._pair(record, texts, [scripts(text) for text in texts])

    def conclude(self) -> Iterator[Finding]:
        for role, chinese in self.chinese.items():
            yield from chinese.conclude(role)

    def _pair(self, record: Record, texts: Sequence[str], counts: Sequence[Counter[str]]) -> Iterator[Finding]:
        languages = [self.context.language(role) for role in self.roles]
        if _plain(texts[0]) == _plain(texts[1]):
            other_script = WRITTEN_IN.get(languages[0]) != WRITTEN_IN.get(languages[1])
            if _is_prose(texts[0]) or (other_script and len(_WORD.findall(texts[0])) >= 3):
                yield found("copied", record, texts[1])
            return
        here = [fits(counts[i], languages[i]) for i in (0, 1)]
        crossed = [fits(counts[i], languages[1 - i]) for i in (0, 1)]
        if not any(here) and all(crossed) and None not in crossed:
            yield found("swapped", record, f"{texts[0]} ⇥ {texts[1]}")
            return
        shares_script = None not in here and all(crossed)
        if shares_script and languages[0] and languages[1] and languages[0] != languages[1]:
            told = [self._told(text, languages[i], languages[1 - i]) for i, text in enumerate(texts)]
            if all(told):
                yield found("swapped", record, f"{texts[0]} ⇥ {texts[1]}")
                return
        for i, role in enumerate(self.roles):
            other = self._foreign(texts[i], counts[i], languages[i])
            kept = i == 1 and other and _words(texts[1]) <= _words(texts[0])
            if kept and _is_prose(texts[1]) and len(texts[1]) > 0.5 * len(texts[0]):
                yield found("copied", record, texts[1], "in part")
            elif other and not kept:
                yield found("language", record, texts[i], f"{role}: {other}")

    def _texts(self, record: Record, roles: Sequence[str]) -> Iterator[Finding]:
        for role in roles:
            text = record.fields[role]
            other = self._foreign(text, scripts(text), self.context.language(role))
            if other:
                yield found("language", record, text, f"{role}: {other}")

    def _new_roles(self, record: Record) -> list[str]:
        """Those but for the passage that the question before was about as well."""
        last, self.passage = self.passage, record.fields.get("passage")
        return [role for role in self.roles if role != "passage" or self.passage != last]

    def _told(self, text: str, language: str, other: str) -> bool:
        """Whether a text is surely in the other language."""
        judge = _between(frozenset({language, other}))
        if judge is None or len(text) < MIN_LETTERS // 2 or self._is_familiar(text, language):
            return False
        said, sure = judge.classify(text)
        return bool(said == other and sure > MIN_SURE)

    def _foreign(self, text: str, seen: Counter[str], language: str) -> str:
        """What a text is written in instead of its language; empty where it may be right."""
        total = seen.total()
        if total < 4 or not language or language in TWO_SCRIPTS:
            return ""
        if language == "zh" and seen["Kana"] >= 2 and seen["Kana"] > 0.1 * total:
            return "Japanese kana"
        wanted = WRITTEN_IN.get(language, ("Latin",))
        script, n = seen.most_common(1)[0]
        right = sum(seen[name] for name in wanted)
        if script not in wanted:
            if "Latin" in wanted:
                return script if n > 0.5 * total else ""
            few = 12 if script == "Latin" else 4  # names, keys and formulas stay in Latin letters
            return script if n >= few and right < 0.1 * total and (script != "Latin" or _is_prose(text)) else ""
        if len(wanted) == 1 and total >= MIN_LETTERS and language != "zh" and not self._is_familiar(text, language):
            said, sure = identifier().classify(text)
            if sure > MIN_SURE and said != language and not _are_close(said, language) and _is_prose(text, 6):
                return str(said)
        return ""

    def _is_familiar(self, text: str, language: str) -> bool:
        words = _WORD.findall(text.casefold())
        known = sum(word in self.familiar.get(language, ()) for word in words)
        return known >= 3 and known > 0.2 * len(words)


def fits(seen: Counter[str], language: str) -> bool | None:
    """Whether most letters are of the language's script; None where there are too few to tell, or no language is known."""
    total = seen.total()
    if not language or total < 2 or language in TWO_SCRIPTS:
        return None
    return sum(seen[name] for name in WRITTEN_IN.get(language, ("Latin",))) > 0.5 * total


CLOSE = ({"nb", "nn", "no", "da", "sv"}, {"hr", "bs", "sr", "sl"}, {"id", "ms", "jv"}, {"cs", "sk"}, {"es", "gl", "ca",
"pt"}, {"af", "nl"},
         {"ru", "uk", "be", "bg", "mk"}, {"fa", "ar", "ur", "ug"}, {"hi", "mr", "ne"})  # fmt: skip
"""Languages that a text of one line is not told apart from."""


def _are_close(one: str, other: str) -> bool:
    return any({one, other} <= some for some in CLOSE)


class Chinese:
    """Simplified or traditional: what most texts are in, and which are in the other.

    What is which is told by the old national encodings: characters of GB 2312 that Big5 lacks are simplified, frequent ones of
    Big5 that GB 2312 lacks traditional.
    """

    SHARE = 0.15
    """Of a text's characters that only one script has, those of the other script from which it counts as written in that."""

    def __init__(self, code: str) -> None:
        low = code.lower().replace("_", "-")
        self.wanted = "traditional" if any(part in low for part in ("hant", "-tw", "-hk", "-mo")) else \
            "simplified" if any(part in low for part in ("hans", "-cn", "-sg")) else ""  # fmt: skip
        self.totals = Counter[str]()
        self.places: dict[str, list[Finding]] = {"simplified": [], "traditional": []}

    def look(self, record: Record, text: str) -> None:
        if text.isascii():
            return
        own = {kind: [letter for letter in text if _chinese_kind(letter) == kind] for kind in self.places}
        total = sum(map(len, own.values()))
        for kind, letters in own.items():
            self.totals[kind] += len(letters)
            # A name may be written with one rare character of the other list: it takes several, or a good part of all.
            n = len(set(letters))
            if n and (len(letters) == total or (n >= 2 and len(letters) >= self.SHARE * total)):
                shown = found("chinese-script", record, text, f"{kind}, {len(letters)}", at=text.index(letters[0]))
                self.places[kind].append(shown)

    def conclude(self, role: str) -> Iterator[Finding]:
        kind, n = (self.totals.most_common(1) or [("", 0)])[0]
        if self.wanted:
            kind = self.wanted
        elif n < 0.9 * self.totals.total():
            return  # a mixture, of which no side is the exception
        other = "traditional" if kind == "simplified" else "simplified"
        for place in self.places[other]:
            yield Finding(
                place.kind, place.file, place.line, place.text, f"{role}: {place.note} of {other}'s own characters"
            )


@lru_cache(maxsize=2**15)
def _chinese_kind(letter: str) -> str:
    """ "simplified" or "traditional" for a character that only that script has, else ""."""
    if not "\u4e00" <= letter <= "\u9fff":
        return ""
    gb, big5 = _code(letter, "gb2312"), _code(letter, "big5")
    if gb and not big5 and 0xB0A1 <= gb <= 0xF7FE:
        return "simplified"
    return "traditional" if big5 and not gb and 0xA440 <= big5 <= 0xC67E else ""


def _code(letter: str, encoding: str) -> int:
    try:
        return int.from_bytes(letter.encode(encoding), "big")
    except UnicodeEncodeError:
        return 0


_WORD = re.compile(r"[^\W\d_]{2,}")


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _is_prose(text: str, least: int = 3) -> bool:
    """Whether these are words of a sentence, not a name, a key, a formula or code: some in small letters, side by side."""
    if any(sign in text for sign in "=(){}[]<>\\_/|;"):
        least += 4
    if _NOT_LATIN.search(text) and sum(map(len, _FINDERS["Han"].findall(text))) >= 4:
        return True
    return len(re.findall(r"(?<![\w./\\{])[^\W\d_A-Z]{2,}(?![\w(}/\\])", text)) >= least
