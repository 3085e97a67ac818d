"""What minutes of pretraining give: a decoder that continues the Three Kingdoms, an encoder that knows what follows what.

    python benchmarks/pretraining.py                    # about twenty minutes on two cores
    python benchmarks/pretraining.py --minutes 2

The decoder is `ciyuan train causal-lm` on the novel, judged by bits per byte on the lines that the recipe holds out, and by the
reader on what it writes. The encoder is `ciyuan train masked-lm` with next-sentence prediction on Chinese statutes, judged on one
law in five of each department, which it has not seen; half of the pairs are true, so that guessing is right half of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from understanding import ROOT, publish, running_text, split, train

NOVEL = ROOT / "examples/data/sanguo.zh.txt.xz"
DECODER = (
    "model.d_model=192", "model.n_layers=4", "model.n_heads=4", "model.n_kv_heads=2", "model.d_ff=512",
    "tokenizer.vocab_size=4000", "training.batch_tokens=2048",
)  # fmt: skip
ENCODER = (
    "model.preset=bert-2018", "model.d_model=128", "model.n_layers=4", "model.n_heads=4", "model.d_ff=384", "model.dropout=0",
    "model.attention_dropout=0", "tokenizer.vocab_size=4000", "objective.next_sentence=true", "training.batch_tokens=2048",
    "training.lr=0.003", "training.embedding_lr=0.002", "training.head_lr=0.001", "training.other_lr=0.002", "training.warmup=0.1",
)  # fmt: skip
"""BERT's norms come after the sum, and at Muon's usual rate of 0.02 it learns nothing but how frequent tokens are."""
PROMPTS = ("却说曹操", "次日，玄德", "孔明笑曰：")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="of each of the two trainings (default 8)")
    parser.add_argument("--write", action="store_true", help="append the figures to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = bench(Path(scratch), settings.minutes)
    publish(lines, write=settings.write)
    return 0


def bench(folder: Path, minutes: float) -> list[str]:
    train("causal-lm", folder / "novel", NOVEL, minutes, DECODER, dev=None)
    novel = scores(folder / "novel")
    written = [ask("generate", folder / "novel", "--prompt", prompt, *SAMPLING) for prompt in PROMPTS]
    parts = split(folder)
    seen, unseen = folder / "seen.txt", folder / "unseen.txt"
    running_text([parts["train"], parts["choose"]], seen)
    n_unseen = running_text([parts["test"]], unseen)
    train("masked-lm", folder / "encoder", seen, minutes, ENCODER, dev=unseen)
    encoder = scores(folder / "encoder")
    return [
        f"## Pretraining for {minutes:g} minutes, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"`benchmarks/pretraining.py --minutes {minutes:g}` on {os.cpu_count()} cores, one run of each.",
        "",
        f"- Three Kingdoms, decoder: **{novel['bits_per_byte']:.3f} bits per byte** on held-out lines. It continues:",
        *(f"  - {prompt}**{text}**" for prompt, text in zip(PROMPTS, written, strict=True)),
        f"- Statutes, encoder with next-sentence prediction, on {n_unseen} laws that it has not seen: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in encoder.items()),
    ]


SAMPLING = ("--max-tokens", "80", "--temperature", "0.7", "--top-p", "0.9", "--seed", "1")


def scores(run: Path) -> dict[str, float]:
    """The scores of the model that a run kept."""
    found: dict[str, Any] = json.loads((run / "ciyuan.json").read_text(encoding="utf-8"))["scores"]
    return {name: float(value) for name, value in found.items()}


def ask(verb: str, model: Path, *arguments: str) -> str:
    """What the command prints, on one line."""
    program = str(Path(sys.executable).with_name("ciyuan"))
    done = subprocess.run([program, verb, str(model), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return " ".join(done.stdout.split())


if __name__ == "__main__":
    sys.exit(main())
