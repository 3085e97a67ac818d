"""An answerer from an encoder, against the sentence of the passage that is most like the question.

    python benchmarks/answering.py --data cmrc.json --text law.txt            # about ten minutes on two cores
    python benchmarks/answering.py --data squad.json --text books.txt --pretrain 1 --tune 1

--data: questions in SQuAD's shape, which are not shipped here; a fifth of the passages, by the hash of each, is judged on. --text:
what the encoder is pretrained on, with the passages that are learnt from. Exact match and F1 are those of SQuAD, or of CMRC
where the answers are Chinese. Baselines: the whole sentence of the passage that shares the largest part of its pairs of characters
with the question; and the best of the question's neighbours: the run of characters of the usual answer's length that follows the
longest piece that sentence shares with the question.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from understanding import SMALL, publish, train


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="questions in SQuAD's shape")
    parser.add_argument("--text", type=Path, required=True, help="running text to pretrain on, .txt or .txt.xz")
    parser.add_argument("--pretrain", type=float, default=5.0, help="minutes of pretraining (default 5)")
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
    both = [*vocabulary, f"data.train=[{settings.text.resolve()}, {passages}]"]
    train("masked-lm", folder / "encoder", passages, settings.pretrain, both, dev=None)
    train(
        "answer",
        folder / "answerer",
        parts["train"],
        settings.tune,
        ["data.max_length=256", "objective.stride=64"],
        dev=None,
        init=folder / "encoder",
    )
    asked = list(read_answers([str(parts["test"])]))
    model = ciyuan.load(folder / "answerer")
    found = model.answer([r.fields["question"] for r in asked], [r.fields["passage"] for r in asked])
    size = round(statistics.median(len(record.fields["answer"]) for record in learnt))
    rows = {
        f"span, encoder pretrained {settings.pretrain:g} min, tuned {settings.tune:g} min": [one.text for one in found],
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


def similar(question: str, passage: str) -> str:
    """The sentence of the passage that shares the largest part of its pairs of characters with the question."""
    from ciyuan.text import sentences

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
