"""A clean parallel file, spoiled on purpose: one fault of each kind, in lines that are known."""

from __future__ import annotations

import lzma
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "examples/data/help.en-zh.train.tsv.xz"
Pair = tuple[str, str]


@dataclass(frozen=True)
class Fault:
    """kind: as the doctor names it. fits: which pairs it can be planted in. spoil: the line's bytes instead."""

    kind: str
    spoil: Callable[[str, str], str | bytes]
    fits: Callable[[str, str], bool] = lambda source, target: True


def sentence(source: str, target: str) -> bool:
    """Prose on both sides, long enough to show a fault."""
    chinese = len(re.findall("[\u4e00-\u9fff]", target)) > 0.6 * len(target)
    return (
        len(source) > 60
        and len(target) > 22
        and source.isascii()
        and chinese
        and not re.search(r"[{}<>=%@\d\x80-\xa0\xad-\xff]", source + target)
    )


def with_number(source: str, target: str) -> bool:
    return re.findall(r"\d\d+", source) == re.findall(r"\d\d+", target) != []


def into(text: str, what: str) -> str:
    return text[: len(text) // 2] + what + text[len(text) // 2 :]


GERMAN = (
    "Wählen Sie im Menü die Option aus, um das Dokument in einem anderen Format zu speichern und danach zu schließen."
)
JAPANESE = "このオプションを選択すると、ドキュメントが別の形式で保存されます。"

FAULTS: dict[str, Fault] = {
    "a byte that is not UTF-8": Fault("unreadable", lambda s,
    t: f"{s}\t".encode() + t.encode()[:7] + b"\xff" + t.encode()[9:], sentence),
    "a NUL": Fault("unreadable", lambda s, t: f"{into(s, chr(0))}\t{t}"),
    "a column too few": Fault("unreadable", lambda s, t: s),
    "a column too many": Fault("unreadable", lambda s, t: f"{s}\t{t}\tend"),
    "an empty target": Fault("empty", lambda s, t: f"{s}\t  "),
    "UTF-8 read as Latin-1": Fault("mojibake", lambda s, t: f"{s}\t{t.encode().decode('latin-1')}", sentence),
    "a replacement character": Fault("lost-characters", lambda s, t: f"{s}\t{into(t, chr(0xFFFD))}", sentence),
    "characters turned into question marks": Fault("lost-characters", lambda s, t: f"{s}\t{'?' * len(t)}", sentence),
    "a control character": Fault("control", lambda s, t: f"{s}\t{into(t, chr(8))}", sentence),
    "a zero-width space": Fault("invisible", lambda s, t: f"{into(s, chr(0x200B))}\t{t}", sentence),
    "a byte order mark": Fault("byte-order-mark", lambda s, t: f"{chr(0xFEFF)}{s}\t{t}", sentence),
    "a line end of Windows": Fault("line-ends", lambda s, t: f"{s}\t{t}\r", sentence),
    "entities of HTML": Fault("html", lambda s, t: f"{s}\t{into(t, '&nbsp;')}", sentence),
    "a tag lost": Fault("tags", lambda s, t: f"<b>{s}</b>\t<b>{t}", sentence),
    "a placeholder lost": Fault("placeholders", lambda s, t: f"{s} %s\t{t}", sentence),
    "another number": Fault("numbers", lambda s, t: f"{s}\t{re.sub(r'[0-9][0-9]+', '7391', t, count=1)}", with_number),
    "another address": Fault("links", lambda s, t: f"{s} https://example.org/a\t{t} https://example.com/a", sentence),
    "sides swapped": Fault("swapped", lambda s, t: f"{t}\t{s}", sentence),
    "the source as target": Fault("copied", lambda s, t: f"{s}\t{s}", sentence),
    "a German target": Fault("language", lambda s, t: f"{s}\t{GERMAN}", sentence),
    "a Japanese target": Fault("language", lambda s, t: f"{s}\t{JAPANESE}", sentence),
    "a German source": Fault("language", lambda s, t: f"{GERMAN}\t{t}", sentence),
    "traditional Chinese": Fault("chinese-script", lambda s,
    t: f"{s}\t選擇這個選項後，文件會以另一種格式儲存在您的電腦裡。", sentence),
    "full-width letters": Fault("width", lambda s, t: f"{s}\t{into(t, 'ＡＢＣ')}", sentence),
    "half a translation": Fault("ratio", lambda s, t: f"{s} {s} {s}\t{t[:3]}", sentence),
    "a loop": Fault("repetition", lambda s, t: f"{s}\t{t}{'点击点击点击点击点击点击'}", sentence),
    "escapes": Fault("escapes", lambda s, t: f"{s}\t\\u9009\\u62e9{t}", sentence),
    "a missing value": Fault("void", lambda s, t: f"{s}\tNULL", sentence),
    "a Cyrillic letter in a Latin word": Fault("homoglyphs", lambda s, t: f"{s} and tаble\t{t}", sentence),
}  # fmt: skip


def pairs(n: int = 400, start: int = 3000) -> list[Pair]:
    with lzma.open(DATA, "rt", encoding="utf-8") as stream:
        lines = [line.rstrip("\n").split("\t") for line in stream]
    return [(source, target) for source, target in lines[start : start + n]]


@dataclass(frozen=True)
class Spoiled:
    """planted: by name, (kind, line)."""

    path: Path
    dev: Path
    planted: dict[str, tuple[str, int]]


def spoil(folder: Path, seed: int, *, n: int = 400, shifted: int = 40) -> Spoiled:
    """A file with every fault in a line of its own, then a repetition, a near one, leaks, and a stretch that slipped by one."""
    draw = random.Random(seed)
    clean = pairs(n + shifted, draw.randrange(1000, 15000))
    head, tail = clean[:n], clean[n:]
    lines: list[bytes] = [f"{source}\t{target}".encode() for source, target in head]
    free = list(range(2, n))  # a table's first line says how many columns there are
    draw.shuffle(free)
    planted: dict[str, tuple[str, int]] = {}

    def take(fits: Callable[[str, str], bool]) -> int:
        place = next(i for i in free if fits(*head[i]))
        free.remove(place)
        return place

    for name, fault in FAULTS.items():
        place = take(fault.fits)
        made = fault.spoil(*head[place])
        lines[place] = made if isinstance(made, bytes) else made.encode()
        planted[name] = (fault.kind, place + 1)
    first, again, near = (take(sentence) for _ in range(3))
    early, late = sorted((first, again))
    lines[late] = lines[early]
    planted["a repetition"] = ("duplicate", late + 1)
    source, target = head[early]
    lines[near] = f"{source.rstrip('.').upper()} !\t{target}".encode()
    planted["a near repetition"] = ("near-duplicate", max(near, early) + 1)
    leak, close = take(sentence), take(sentence)
    dev = folder / "dev.tsv"
    words = head[close][0].split(" ")
    words[len(words) // 2] = "quite"
    dev.write_text(
        f"{head[leak][0]}\t{head[leak][1]}\n{' '.join(words)}\t{head[close][1]}\nfresh\t新\n", encoding="utf-8"
    )
    planted["a leak"] = ("leak", leak + 1)
    planted["a near leak"] = ("near-leak", close + 1)
    planted["a slip"] = ("shifted", n + 1)
    targets = [target for _, target in tail]
    lines += [
        f"{source}\t{target}".encode() for (source, _), target in zip(tail, targets[1:] + targets[:1], strict=True)
    ]
    path = folder / "spoiled.tsv"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return Spoiled(path, dev, planted)
