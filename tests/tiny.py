"""A translator small enough to be trained in a test: it swaps four words of a toy language for four others."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = {"red": "红", "dog": "狗", "sees": "看见", "cat": "猫", "big": "大", "bird": "鸟"}
SETTINGS = (
    "data.source=en",
    "data.target=zh",
    "data.dev=12",
    "tokenizer.kind=characters",
    "tokenizer.vocab_size=400",
    "model.d_model=32",
    "model.n_layers=1",
    "model.n_decoder_layers=1",
    "model.n_heads=2",
    "model.d_ff=32",
    "training.batch_tokens=400",
    "training.threads=1",
    "training.log_every=2",
)


def write_pairs(path: Path, n: int = 150, seed: int = 0) -> Path:
    """n different pairs, source and target parted by a tab."""
    draw = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < n:
        words = draw.choices(list(WORDS), k=draw.randint(2, 5))
        pairs[" ".join(words)] = "".join(WORDS[word] for word in words)
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs.items()), encoding="utf-8")
    return path


def options(*more: str) -> list[str]:
    """--set options for a tiny model; a later one wins."""
    return [part for text in (*SETTINGS, *more) for part in ("--set", text)]
