"""An answerer from an encoder, against the sentence of the passage that is most like the question.

    python benchmarks/answering.py --data cmrc.json --text law.txt            # about ten minutes on two cores
    python benchmarks/answering.py --data squad.json --text books.txt --pretrain 1 --tune 1

--data: questions in SQuAD's shape, which are not shipped here; a fifth of the passages, by the hash of each, is judged on. --text:
what the encoder is pretrained on, with the passages that are learnt from; then it practises on blanks in these passages. Exact
match and F1 are those of SQuAD, or of CMRC where the answers are Chinese. Baselines: the whole sentence of the passage that
shares the largest part of its pairs of characters with the question; and the best of the question's neighbours: the run of
characters of the usual answer's length that follows the longest piece that sentence shares with the question.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understanding import BATCHES, SMALL, publish, train

from ciyuan.text import sentences
from ciyuan.text.words import words

TUNING = (*BATCHES, "training.optimizer=muon", "training.lr=auto")
BLANKS = 30
"""Of each passage that is learnt from."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="questions in SQuAD's shape")
    parser.add_argument("--text", type=Path, required=True, help="running text to pretrain on, .txt or .txt.xz")
    parser.add_argument("--pretrain", type=float, default=5.0, help="minutes of pretraining (default 5)")
    parser.add_argument("--practise", type=float, default=4.0, help="minutes on blanks in the passages (default 4)")
    parser.add_argument("--tune", type=float, default=3.0, help="minutes of fine-tuning (default 3)")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = bench(Path(scratch), settings)
    publish(lines, write=settings.write)
    return 0


def bench(folder: Path, settings: argparse.Namespace) -> list[str]:
    import ciyuan
    from ciyuan.data.readers import read_answers
    from ciyuan.evaluation import evaluate_answers

    parts = split(settings.data, folder)
    passages = folder / "passages.txt"
    learnt = list(read_answers([str(parts["train"])]))
    passages.write_text("\n\n".join(dict.fromkeys(record.fields["passage"] for record in learnt)), encoding="utf-8")
    vocabulary = [option for option in SMALL if not option.startswith("tokenizer")] + ["tokenizer.vocab_size=8000"]
    both = [*vocabulary, *BATCHES, "objective.mask_rate=0.3", f"data.train=[{settings.text.resolve()}, {passages}]"]
    train("masked-lm", folder / "encoder", passages, settings.pretrain, both, dev=None)
    asked_by_themselves = folder / "blanks.json"
    n_blanks = blanks([*dict.fromkeys(record.fields["passage"] for record in learnt)], asked_by_themselves, each=BLANKS)
    short = (*TUNING, "data.max_length=256", "objective.stride=64", "data.dev=200")
    train(
        "answer", folder / "practised", asked_by_themselves, settings.practise, short, dev=None, init=folder / "encoder"
    )
    train("answer", folder / "answerer", parts["train"], settings.tune, short, dev=None, init=folder / "practised")
    asked = list(read_answers([str(parts["test"])]))
    model = ciyuan.load(folder / "answerer")
    found = model.answer([r.fields["question"] for r in asked], [r.fields["passage"] for r in asked])
    size = round(statistics.median(len(record.fields["answer"]) for record in learnt))
    rows = {
        f"span: {settings.pretrain:g} min of masked words, {settings.practise:g} of {n_blanks:,} blanks, {settings.tune:g} of "
        f"{len(learnt):,} questions": [one.text for one in found],
        "most similar sentence": [similar(r.fields["question"], r.fields["passage"]) for r in asked],
        f"{size} characters after what that sentence shares with the question": [
            after(r.fields["question"], r.fields["passage"], size) for r in asked
        ],
    }
    lines = [
        f"## Answers to {settings.data.name}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"{len(asked):,} questions about passages that were not learnt from; {len(learnt):,} to learn from.",
        "",
        "| who | exact match | F1 |",
        "|---|---|---|",
    ]
    for name, texts in rows.items():
        metrics = evaluate_answers(texts, [record.answers for record in asked]).metrics
        lines.append(f"| {name} | {metrics['exact_match']:.2f} | {metrics['f1']:.2f} |")
    return lines


def split(data: Path, folder: Path) -> dict[str, Path]:
    """The paragraphs to train on and to judge on, as two files of the same shape."""
    articles = json.loads(data.read_text(encoding="utf-8"))["data"]
    paragraphs: dict[str, list[Any]] = {"train": [], "test": []}
    for article in articles:
        for paragraph in article["paragraphs"]:
            share = hashlib.sha256(paragraph["context"].encode()).digest()[0] / 256
            paragraphs["test" if share < 0.2 else "train"].append(paragraph)
    paths = {}
    for name, some in paragraphs.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(
            json.dumps({"data": [{"title": name, "paragraphs": some}]}, ensure_ascii=False), encoding="utf-8"
        )
    return paths


def blanks(passages: Sequence[str], out: Path, *, each: int, seed: int = 0) -> int:
    """Questions that passages ask by themselves, in SQuAD's shape; how many.

    A few words of a clause are the answer; the rest of the clause, with a question word in their place and some other words left
    out, is the question; some neighbouring sentences are the passage (after Lewis et al. 2019, "Unsupervised Question Answering by
    Cloze Translation", without the translation).
    """
    draw = random.Random(seed)
    paragraphs: list[dict[str, Any]] = []
    for passage in passages:
        parts = sentences.split(passage)
        for _ in range(each):
            first = draw.randrange(len(parts))
            context = "".join(parts[max(0, first - draw.randrange(3)) : first + 1 + draw.randrange(3)])
            clause = draw.choice(
                [clause for clause in re.split(r"(?<=[，。；：,;:.])", parts[first]) if clause.strip()] or [""]
            )
            spans = [(a, b) for a, b in words(clause) if clause[a:b].isalnum()]
            if len(spans) < 3:
                continue
            n = min(draw.choice([1, 1, 1, 2, 2, 3, 4]), len(spans) - 2)
            at = draw.randrange(len(spans) - n + 1)
            start, end = spans[at][0], spans[at + n - 1][1]
            kept = [i for i in range(len(spans)) if not at <= i < at + n and draw.random() < 0.7]
            space = " " if clause.isascii() else ""
            before = space.join(clause[slice(*spans[i])] for i in kept if i < at)
            after_it = space.join(clause[slice(*spans[i])] for i in kept if i >= at + n)
            question = (
                space.join((before, draw.choice(ASKED[clause.isascii()]), after_it)).strip()
                + "?？"[not clause.isascii()]
            )
            place = context.find(clause)
            paragraphs.append({"context": context, "qas": [{
                "id": str(len(paragraphs)), "question": question,
                "answers": [{"text": clause[start:end], "answer_start": place + start}],
            }]})  # fmt: skip
    out.write_text(
        json.dumps({"data": [{"title": "blanks", "paragraphs": paragraphs}]}, ensure_ascii=False), encoding="utf-8"
    )
    return len(paragraphs)


ASKED = (("什么", "什么", "谁", "哪里", "哪个", "多少"), ("what", "what", "who", "where", "which", "how many"))
"""Question words, Chinese and English."""


def similar(question: str, passage: str) -> str:
    """The sentence of the passage that shares the largest part of its pairs of characters with the question."""
    asked = pairs(question)
    return max(
        (one.strip() for one in sentences.split(passage)),
        key=lambda one: len(pairs(one) & asked) / (len(pairs(one)) ** 0.5 or 1),
    )


def after(question: str, passage: str, size: int) -> str:
    """So many characters after the longest piece that the most similar sentence shares with the question."""
    sentence = similar(question, passage)
    pieces = [sentence[i:j] for i in range(len(sentence)) for j in range(i + 2, min(len(sentence), i + 12) + 1)]
    shared = max((piece for piece in pieces if piece in question), key=len, default="")
    place = sentence.find(shared) + len(shared)
    return sentence[place : place + size].strip(" ，,。.：:的是") or sentence[:size]


def pairs(text: str) -> set[str]:
    return {text[i : i + 2] for i in range(len(text) - 1)}


if __name__ == "__main__":
    sys.exit(main())
