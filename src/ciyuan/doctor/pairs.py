"""Pairs whose two sides do not say the same: numbers, placeholders, tags, addresses and lengths that differ."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context, OneByOne, found
from ciyuan.doctor.findings import Finding

DIGITS = re.compile(r"\d+")
THOUSANDS = re.compile(r"(?<=\d)[,\u202f'](?=\d{3}(?!\d))")
NUMBER_WORDS = re.compile(
    r"[零〇一二三四五六七八九十百千万亿兩两廿首末]|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|first|second|third|fourth|"
    r"fifth|half|double|triple|twice|once|hundred|thousand|million|billion|dozen|single|both|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|"
    r"dec)", re.IGNORECASE)  # fmt: skip
PLACEHOLDER = re.compile(
    r"(?<![\d%])%(?:\d+\$)?[-+#0]?\d*(?:\.\d+)?(?:ld|lu|[sdiufgxXc@])(?![A-Za-z])|%\([A-Za-z_]\w*\)[sdif]|"
    r"\$\{[^{}\s]{1,60}\}|\{\{[^{}]{1,60}\}\}|"
    r"\{[A-Za-z_][\w.]{0,40}\}|\{\d{0,2}\}|%[A-Z][A-Z_]{2,}%?|\$\[[^\]\s]{1,40}\]|"
    r"(?<!\w)__[A-Za-z0-9]+__|(?<!\w)@@\w+@@"
)
TAG = re.compile(
    r"</?(?:a|p|b|i|u|g|x|br|hr|em|strong|span|div|font|img|code|pre|link|emph|item|bpt|ept|ph|it|sub|sup|li|ul|ol|td|tr|th|table|"
    r"h[1-6]|mark|small|ref|seg|tag\d*|bx|ex|mrk)(?:\s[^<>]*)?/?>", re.IGNORECASE)  # fmt: skip
ADDRESS = re.compile(r"https?://[^\s<>\"'，。、；（）」』】)\]]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)


class Agreement(OneByOne):
    """What must be the same on both sides, and is not."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def look(self, record: Record) -> Iterator[Finding]:
        source, target = record.fields["source"], record.fields["target"]
        if not source.strip() or not target.strip():
            return
        for kind, parts in PARTS:
            ours, theirs = parts(source), parts(target)
            if ours != theirs:
                yield found(kind, record, f"{source} ⇥ {target}", _difference(ours, theirs))
                if kind in ("placeholders", "links"):
                    return  # the digits in them differ as well
        note = numbers_differ(source, target)
        if note:
            yield found("numbers", record, f"{source} ⇥ {target}", note)


def placeholders(text: str) -> Counter[str]:
    if not any(sign in text for sign in "%{$_@"):
        return Counter()
    return Counter(PLACEHOLDER.findall(text))


def tags(text: str) -> Counter[str]:
    """Tags by their names, what an element says within it left out; a bare name in a sentence is told by its pair."""
    if "<" not in text:
        return Counter()
    return Counter(re.sub(r"\s.*?(/?)>$", r"\1>", tag, flags=re.DOTALL).lower() for tag in TAG.findall(text))


def addresses(text: str) -> Counter[str]:
    """Addresses, of which the server counts: a page may have its own path in each language."""
    if "@" not in text and "://" not in text:
        return Counter()
    return Counter(_server(address) for address in ADDRESS.findall(text))


def _server(address: str) -> str:
    return re.sub(r"^https?://(?:www\.|[a-z]{2}\.)?([^/?#]+).*", r"\1", address.rstrip(".,:;")).lower()


PARTS: tuple[tuple[str, Callable[[str], Counter[str]]], ...] = (
    ("placeholders", placeholders), ("tags", tags), ("links", addresses)
)  # fmt: skip


def numbers_differ(source: str, target: str) -> str:
    """How, or empty. Small numbers may be words on the other side, and digits may be grouped and ordered otherwise.

    >>> numbers_differ("on 12/30/1899 at 5", "1899 年 12 月 30 日 5 时"), numbers_differ("page 3", "第 5 页")
    ('', '3 ≠ 5')
    """
    ours, theirs = _numbers(source), _numbers(target)
    lacking, added = ours - theirs, theirs - ours
    if not lacking and not added:
        return ""
    if sorted("".join(lacking.elements())) == sorted("".join(added.elements())):
        return ""
    in_words = NUMBER_WORDS.search(source if added else target) is not None
    if not (lacking and added):
        if in_words or all(n in (theirs if lacking else ours) for n in lacking or added):
            return ""  # written out, or said once more
        if max(map(len, lacking or added)) < 2:
            return ""
    elif NUMBER_WORDS.search(source) and NUMBER_WORDS.search(target) and max(map(len, lacking | added)) < 3:
        return ""
    return _difference(lacking, added)


def _numbers(text: str) -> Counter[str]:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return Counter(run.lstrip("0") or "0" for run in DIGITS.findall(THOUSANDS.sub("", text)))


def _difference(ours: Counter[str], theirs: Counter[str]) -> str:
    shown = [
        ", ".join(list((one - other).elements())[:4]) or "nothing" for one, other in ((ours, theirs), (theirs, ours))
    ]
    return " ≠ ".join(part if len(part) <= 60 else part[:59] + "…" for part in shown)


class Lengths:
    """Pairs of which one side is far too long for the other, given all pairs.

    Gale and Church 1993: the difference of the lengths is about normal, with a variance that grows with the length. Its
    mean and spread are those of the corpus itself, from quartiles, which a few wrong pairs do not move.
    """

    FEWEST = 30
    """Pairs from which a corpus has a usual ratio."""
    FAR = 6.0
    """Of its standard deviations."""
    TIMES = 2.2
    """The least factor by which the ratio must differ as well: of short texts the spread is wide."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.source, self.target, self.places = array("I"), array("I"), array("Q")
        self.seen = 0

    def look(self, record: Record) -> Iterable[Finding]:
        sizes = [weight(record.fields[role]) for role in ("source", "target")]
        if all(sizes):
            self.source.append(sizes[0])
            self.target.append(sizes[1])
            self.places.append(self.seen)
        self.seen += 1
        return ()

    def conclude(self) -> Iterator[Finding]:
        if len(self.source) < self.FEWEST:
            return
        source, target = (np.array(sizes, np.float64) for sizes in (self.source, self.target))
        ratio = float(np.median(target[source > 20] / source[source > 20])) if (source > 20).any() else 1.0
        scale = np.sqrt(source * ratio + target + 8)
        delta = (target - ratio * source) / scale
        low, high = np.quantile(delta, [0.25, 0.75])
        spread = max(0.5, (high - low) / 1.349)
        times = np.exp(np.abs(np.log((target + 4) / (ratio * source + 4))))
        far = (np.abs(delta - np.median(delta)) > self.FAR * spread) & (times > self.TIMES)
        odd = {int(self.places[i]): float(target[i] / source[i]) for i in np.flatnonzero(far)}
        for place, record in self.context.reread(sorted(odd)):
            texts = record.fields["source"], record.fields["target"]
            yield found("ratio", record, " ⇥ ".join(texts), f"target ÷ source {odd[place]:.2f}, usual {ratio:.2f}")


def weight(text: str) -> int:
    """How much a text says, in letters: a Han character or a Korean syllable says as much as two or three of an alphabet."""
    text = text.strip()
    if text.isascii():
        return len(text)
    wide = sum(map(len, re.findall(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+", text)))
    return len(text) + 2 * wide
