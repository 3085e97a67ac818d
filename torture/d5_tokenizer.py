"""Any text through every tokeniser and back; and a megabyte without a space in two seconds."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from functools import cache

from ciyuan.text import Tokenizer, TokenizerSettings
from torture.d3_parallel import pairs
from torture.harness import Case, Tally, broken, replaced

LOSSLESS = ("unigram", "char-bpe", "bpe", "characters", "bytes")
MEGABYTE, SECONDS = 2**20, 2.0
PARTS = [
    " ", "  ", "\n", "\r\n", "\t", "\x00", "\x7f", "\x85", "\xa0", "\u200b", "\u2028", "\u3000", "\ufeff", "\ufffd",
    "\ue000", "\ue0001", "▁", "Ġ",
    "##", "</s>", "<s>", "<pad>", "<unk>", "<0x41>", "<0x", "[MASK]", "a", "The", "the", "e\u0301", "é", "ﬁ", "İ", "ß", "ſ",
    "１", "½", "字", "龘",
    "𠮷", "👨‍👩‍👧", "🇨🇳", "\u0e33", "नमस्ते", "مرحبا", "\u202e", "\U0010ffff", "\ud7ff", "\ue00012", "文件", "打印",
    "Shift+F4", "9" * 30, "-" * 30,
]  # fmt: skip


@cache
def tokenizer(kind: str) -> Tokenizer:
    texts = [text for pair in pairs()[:1500] for text in pair]
    return Tokenizer.train(texts, TokenizerSettings.model_validate({"kind": kind, "vocab_size": 2000}))


def run(tally: Tally) -> None:
    with broken(MUTANTS, tally.mutant):
        for case in tally.cases(tally.size(fast=500, full=50_000)):
            _one(tally, case, LOSSLESS[case.number % len(LOSSLESS)])
        start = tally.size(fast=500, full=50_000)
        for case in tally.cases(tally.size(fast=3, full=3 * len(LOSSLESS)), start=start):
            number = case.number - start
            _long(tally, case, LOSSLESS[number % len(LOSSLESS)], (number // len(LOSSLESS) + number) % 3)


def any_text(draw: random.Random) -> str:
    def part() -> str:
        if draw.random() < 0.7:
            return draw.choice(PARTS)
        point = draw.choice((draw.randrange(0x250), draw.randrange(0x110000)))
        return chr(point) if not 0xD800 <= point < 0xE000 else "x"

    return "".join(part() for _ in range(draw.randrange(40)))


def _one(tally: Tally, case: Case, kind: str) -> None:
    text = any_text(case.draw)
    ids = tokenizer(kind).encode(text)
    back = tokenizer(kind).decode(ids)
    if back != text:
        (case.folder / "text.txt").write_text(text, encoding="utf-8", newline="")
        tally.fail(case, f"{kind}: {text!r} came back as {back!r}")


def _long(tally: Tally, case: Case, kind: str, form: int) -> None:
    unit = ("字", "x", "".join(chr(0x4E00 + case.draw.randrange(3000)) for _ in range(500)))[form]
    text = (unit * MEGABYTE)[: MEGABYTE // len(unit[0].encode())]
    made = tokenizer(kind)
    began = time.perf_counter()
    ids = made.encode(text)
    seconds = time.perf_counter() - began
    tally.see("seconds of a megabyte", seconds)
    if seconds > SECONDS:
        tally.fail(case, f"{kind}: {seconds:.1f} s for a megabyte of {unit[:5]}…")
    if made.decode(ids) != text:
        tally.fail(case, f"{kind}: a megabyte of {unit[:5]}… did not come back")


def _trimming(self: Tokenizer, ids: Iterable[int], *, skip_special: bool = True) -> str:
    return self.backend.decode(list(ids), skip_special_tokens=skip_special).strip()


MUTANTS = {"a tokeniser that trims": lambda: replaced(Tokenizer, "decode", _trimming)}
