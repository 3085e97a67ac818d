"""Masked language models in minutes: how long ours takes to the best score of `transformers`' BERT and its Trainer.

    python benchmarks/masked.py                                    # about 90 minutes of a quiet machine
    python benchmarks/masked.py --minutes 0.2 --rates 5e-4,1e-3 --seeds 1 --limit 20 --noisy --out /tmp/m/runs.jsonl

The peer (benchmarks/peers/trainer.py) trains --minutes at each of --rates; ours is `ciyuan train masked-lm`, about as large;
"classic" is our engine with BERT's network of the peer's sizes, AdamW and a cosine at the peer's best rate: what the engine
alone is worth. Both read with one tokeniser (WordPiece, Chinese by character), learnt from what is trained on: Chinese
statutes. One law in ten, by the hash of its name, is held out, and in it 15 % of the tokens are masked, once and for all, in
a file. Each model is loaded by `transformers` from the folder that it leaves and asked for what is masked
(benchmarks/peers/scorer.py): the share of likeliest guesses that are right, in per cent, and nats per masked token. The
protocol is that of benchmarks/contest.py; minutes of ours include evaluation and saving, the peer's are of training alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import shutil
import sys
from pathlib import Path

from contest import Contest, Goal, Run, Side, Start, Terms, report
from language import numbers, train
from machine import ROOT, Row, call, publish

DATA = ROOT / "examples/data/law.zh.train.jsonl.xz"
PEERS = ROOT / "benchmarks/peers"
HELD_OUT, MASK_RATE, WIDTH = 0.1, 0.15, 256
OWN_DEV = 300
"""Lines of what it trains on by which ours chooses its best step."""
OURS = (
    "model.d_model=256", "model.n_layers=6", "model.n_heads=4", "model.d_ff=512", "data.max_length=256",
    "training.batch_tokens=2048",
)  # fmt: skip
LAYERS = 5
"""Of BERT, four times as wide in the middle as at the ends: as large as ours."""
CLASSIC = (
    "model.preset=bert-2018", "model.d_model=256", f"model.n_layers={LAYERS}", "model.n_heads=4", "model.d_ff=1024",
    "model.dropout=0", "model.attention_dropout=0", "model.initialisation=normal", "data.max_length=256",
    "training.batch_tokens=2048", "objective.mask=tokens", "training.optimizer=adamw", "training.embedding_lr=auto",
    "training.schedule=cosine",
    "training.final_lr=0.1", "training.warmup=0.05", "training.weight_decay=0.01", "training.betas=[0.9, 0.98]",
)  # fmt: skip


def main() -> int:
    settings = parse()
    folder = settings.out.parent / "law.zh"
    folder.mkdir(parents=True, exist_ok=True)
    laws, masked = prepare(folder, settings)
    contest = build(folder, settings)
    rows = contest.carry_out()
    note = (
        f"`benchmarks/masked.py --minutes {settings.minutes:g}`; {len((folder / 'train.txt').read_bytes()):,} bytes to train on, "
        f"{masked:,} masked tokens of {laws} laws held out."
    )
    publish(report(contest, rows, note), write=settings.write)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--minutes", type=float, default=8.0, help="of the peer at each rate (default 8)")
    add("--rates", type=numbers, default=[2.5e-4, 5e-4, 1e-3, 2e-3], help="of the peer (default 2.5e-4,5e-4,1e-3,2e-3)")
    add("--shares", type=numbers, default=[1 / 4, 1 / 2], help="of the peer's time (default 0.25,0.5)")
    add("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 3], help="default 1,2,3")
    add("--vocab-size", type=int, default=8000, help="default 8000")
    add("--limit", type=int, help="score on so many rows only, to try things out")
    add("--threads", type=int, default=os.cpu_count(), help="for both (default: one a core)")
    add(
        "--peer-python",
        default=sys.executable,
        help="of an environment with transformers and accelerate (default: this one)",
    )
    add("--out", type=Path, default=ROOT / ".bench/masked/runs.jsonl", help="where finished runs are kept")
    add("--noisy", action="store_true", help="start even while something else uses the processor")
    add("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    return parser.parse_args()


def prepare(folder: Path, settings: argparse.Namespace) -> tuple[int, int]:
    """The text to train on, the tokeniser, the file of masks. Returns how many laws are held out, and how many tokens masked."""
    import numpy as np

    from ciyuan.text import BERT_TOKENS, Tokenizer, TokenizerSettings

    laws: dict[str, list[str]] = {}
    with lzma.open(DATA, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            laws.setdefault(row["law"], []).append(" ".join(row["text"].split()))
    held_out = {law for law in laws if hashlib.sha256(law.encode()).digest()[0] / 256 < HELD_OUT}
    learnt = ["\n".join(texts) for law, texts in laws.items() if law not in held_out]
    (folder / "train.txt").write_text("\n\n".join(learnt), encoding="utf-8")
    made = Tokenizer.train(
        learnt, TokenizerSettings(kind="wordpiece", vocab_size=settings.vocab_size), BERT_TOKENS, template="cls-sep"
    )
    made.save(folder / f"wordpiece-{settings.vocab_size}")
    random = np.random.default_rng(0)
    rows, total, room = [], 0, WIDTH - 2
    for law in sorted(held_out):
        ids = np.array(made.encode("\n".join(laws[law])))
        for start in range(0, len(ids), room):
            shown = ids[start : start + room].copy()
            chosen = random.choice(len(shown), max(1, round(MASK_RATE * len(shown))), replace=False)
            labels = np.full(len(shown), -100)
            labels[chosen], shown[chosen] = shown[chosen], made.mask_id
            rows.append(
                {"input_ids": [made.cls_id, *shown.tolist(), made.sep_id], "labels": [-100, *labels.tolist(), -100]}
            )
    rows = rows[: settings.limit]
    total = sum(label != -100 for row in rows for label in row["labels"])
    (folder / "masks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(held_out), total


def build(folder: Path, settings: argparse.Namespace) -> Contest:
    text, reads, masks = folder / "train.txt", folder / f"wordpiece-{settings.vocab_size}", folder / "masks.jsonl"

    def judge(model: Path) -> dict[str, float]:
        command = [settings.peer_python, str(PEERS / "scorer.py"), "masked", str(model), "--masks", str(masks)]
        command += ["--threads", str(settings.threads)]
        found: dict[str, float] = json.loads(
            call(command, log=settings.out.parent / "last.log", threads=settings.threads)
        )
        return found

    def peer(run: Run) -> Row:
        out = folder / "bert"
        shutil.rmtree(out, ignore_errors=True)
        command = [
            settings.peer_python, str(PEERS / "trainer.py"), "bert", "--train", str(text), "--tokenizer", str(reads),
            "--out", str(out), "--minutes", f"{run.minutes:g}", "--lr", f"{run.rate:g}", "--seed", str(run.seed),
            "--threads", str(settings.threads), "--width", str(WIDTH), "--layers", str(LAYERS),
            "--beta2", "0.98", "--weight-decay", "0.01",
        ]  # fmt: skip
        found: Row = json.loads(call(command, log=settings.out.parent / "last.log", threads=settings.threads))
        return found | {"scores": judge(out)}

    def ours(options: tuple[str, ...]) -> Start:
        def start(run: Run) -> Row:
            out = folder / run.who
            own = [*options, f"tokenizer={reads}", f"data.dev={OWN_DEV}"]
            own += [] if run.rate is None else [f"training.lr={run.rate:g}"]
            return train("masked-lm", out, text, own, run, settings) | {"scores": judge(out)}

        return start

    terms = Terms(
        title="BERT and the Trainer, masked tokens of law.zh", metric="masked_accuracy", higher_is_better=True, others=("nll",),
        goals=[Goal("rate tuned", None, tuple(settings.shares), target=1 / 4)], rates=settings.rates, seeds=settings.seeds,
        minutes=settings.minutes, threads=settings.threads, asked={"vocab_size": settings.vocab_size, "limit": settings.limit},
    )  # fmt: skip
    sides = [
        Side("ours", ours(OURS)),
        Side("classic", ours(CLASSIC), every_seed=False, shares=False, at_their_rate=True),
    ]
    return Contest(terms, settings.out, peer=peer, sides=sides, files=[DATA], noisy=settings.noisy)


if __name__ == "__main__":
    sys.exit(main())
