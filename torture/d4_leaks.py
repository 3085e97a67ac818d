"""Evaluation examples planted in the training data: exact ones all found, near ones in 95 of 100, and hardly a false alarm.

Near: a word replaced, case, punctuation or spaces changed, width changed. What was not planted and is named all the same is a false
alarm unless three in five of its words are those of a dev example: text that repeats itself is not the harness's to judge.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Sequence

from ciyuan.data import Corpus, DataSettings
from ciyuan.data.readers import Record
from ciyuan.doctor import nearness
from ciyuan.doctor.repetition import near_leaks
from torture.d3_parallel import pairs
from torture.harness import Case, Tally, broken, replaced

WORD = re.compile(r"[\u3400-\u9fff]|\w+")
NEAR_FOUND, FALSE_ALARMS = 0.95, 0.01
LEAST = 45
"""Letters of a dev example of which a near copy is planted, some eight words; a Han character counts as two."""


def run(tally: Tally) -> None:
    with broken(MUTANTS, tally.mutant):
        for case in tally.cases(tally.size(fast=3, full=60)):
            _one(tally, case, 6000 if tally.full else 1500)


def _one(tally: Tally, case: Case, size: int) -> None:
    draw = case.draw
    chosen = list(dict(draw.sample(pairs(), size + 200)).items())
    if case.number % 2:
        chosen = list({target: source for source, target in chosen}.items())  # from Chinese
    dev, rest = chosen[:200], chosen[200:]
    able = [i for i, (source, _) in enumerate(dev) if size_of(source) >= LEAST]
    draw.shuffle(able)
    exact, near = able[: len(able) // 2], able[len(able) // 2 :]
    planted = [(f" {dev[i][0]} ", dev[i][1]) for i in exact] + [(changed(dev[i][0], draw), dev[i][1]) for i in near]
    clean = len(rest)
    train = rest + planted
    order = draw.sample(range(len(train)), len(train))
    lines = [f"{train[i][0]}\t{train[i][1]}" for i in order]
    for name, content in (("train", lines), ("dev", [f"{source}\t{target}" for source, target in dev])):
        (case.folder / f"{name}.tsv").write_text("\n".join(content) + "\n", encoding="utf-8")
    line_of = {place: number for number, place in enumerate(order, start=1)}
    corpus = Corpus(
        DataSettings(train=str(case.folder / "train.tsv"), dev=str(case.folder / "dev.tsv"), duplicates="keep")
    )
    kept = {record.line for record in corpus.train()}
    began = time.monotonic()
    found = {record.line for record in near_leaks(corpus, corpus.train(), corpus.dev)}
    tally.see("seconds per thousand", 1000 * (time.monotonic() - began) / len(train))
    missed = sum(line_of[clean + k] in kept for k in range(len(exact)))
    caught = sum(
        line_of[clean + len(exact) + k] in found or line_of[clean + len(exact) + k] not in kept
        for k in range(len(near))
    )
    alarms = _false(found & {line_of[i] for i in range(clean)}, [train[i][0] for i in order], corpus.dev)
    tally.see("near missed", 1 - caught / max(1, len(near)))
    tally.see("false alarms", alarms / max(1, clean))
    if missed:
        tally.fail(case, f"{missed} of {len(exact)} exact leaks stay in train")
    if caught < NEAR_FOUND * len(near):
        tally.fail(case, f"{caught} of {len(near)} near leaks found")
    if alarms > FALSE_ALARMS * clean:
        tally.fail(case, f"{alarms} false alarms among {clean}")


def size_of(text: str) -> int:
    return sum(2 if word[0] >= "\u3400" else len(word) for word in WORD.findall(text))


def changed(text: str, draw: random.Random) -> str:
    """Nearly the same text."""
    kind = draw.randrange(4)
    words = list(WORD.finditer(text))
    if kind == 0:  # another word, not of the longest
        short = sorted(words, key=lambda word: len(word[0]))[: max(1, len(words) // 2)]
        word = draw.choice([one for one in short if not one[0].isdigit()] or short)
        return text[: word.start()] + ("这" if ord(word[0][0]) > 0x3000 else "that") + text[word.end() :]
    if kind == 1:
        return text.swapcase() + "!"
    if kind == 2:
        return re.sub(r"[,.，。]", " ", text) + " …"
    return "".join(chr(ord(char) + 0xFEE0) if "!" < char < "~" and draw.random() < 0.3 else char for char in text)


def _false(lines: set[int], texts: Sequence[str], dev: Sequence[Record]) -> int:
    bags = [Counter(WORD.findall(record.fields["source"].casefold())) for record in dev]
    wrong = 0
    for line in lines:
        bag = Counter(WORD.findall(texts[line - 1].casefold()))
        wrong += not any(2 * (bag & other).total() >= 0.6 * (bag.total() + other.total()) for other in bags)
    return wrong


MUTANTS = {
    "nothing is near": lambda: replaced(nearness, "are_near", lambda one, other: False),
    "everything in a band is near": lambda: replaced(nearness, "are_near", lambda one, other: True),
}
