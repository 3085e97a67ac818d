"""Tokens per second of `ciyuan train` and of `transformers`' Trainer: equal network, batch, optimiser and threads, fp32.

    python benchmarks/throughput.py                                # about fifty minutes of a quiet machine
    python benchmarks/throughput.py --only decoder masked-8k --runs 3 --seconds 10

    decoder        GPT-2's network, 384 × 6, a vocabulary of 8,000, 13.8M parameters, rows of 256 tokens; without and with dropout
    masked-8k/30k  BERT's network, 256 × 4 (BERT-mini), masked language modelling at two sizes of vocabulary
    translation    Marian's network, 256 × 3 + 3, on pairs of realistic lengths (help.en-zh)
    ceiling        the share of this machine's fp32 matrix products per second that the decoder's training step does

Each side is a fresh process that trains for --seconds after a warm-up; the sides take turns, --runs times. A figure is the
median of the runs; a ratio is the median of the ratios of neighbours, so that a machine that slows down slows both. Ours is
trained as a user would, by `ciyuan train`, and read from its metrics.jsonl; the peer is benchmarks/peers/speed.py, once as
the Trainer comes and once tuned. Tokens are real ones; padding is not counted. Both use fused AdamW, the same rate, betas,
eps, decay and clipping. The peer's batch of pairs has so many rows that it holds as many real tokens as ours, on average.

The ceiling is measured beside each run of ours: the best of several square products of the same threads. Of the step, the
products with weights count, and of attention those that causality does not make void; nothing that is computed twice counts
twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from machine import ROOT, SLACK, Row, Watch, call, commit, heading, publish, stored_parameters, wait_for_quiet

NOVEL = ROOT / "examples/data/moby-dick.en.txt.xz"
PAIRS = ROOT / "examples/data/help.en-zh.train.tsv.xz"
PEER = ROOT / "benchmarks/peers/speed.py"
WARM = 4.0
"""Seconds of training before those that are measured."""
ADAMW = {"optimizer": "adamw", "lr": 5e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0}
"""The Trainer's own, but for the rate."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and its data. peers: options of the peer, by the name of its row."""

    recipe: str
    kind: str
    text: str
    vocab_size: int
    d_model: int
    n_layers: int
    d_ff: int
    ours: tuple[str, ...]
    peers: Mapping[str, tuple[str, ...]]
    dropout: float = 0.0
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def n_heads(self) -> int:
        return self.d_model // 64


BUDGET = 2048
"""Padded tokens of the wider side of a batch of pairs."""
PLAIN, TUNED = "Trainer", "Trainer, tuned"
STYLES = {PLAIN: ("--style", "default"), TUNED: ("--style", "tuned")}
LINES = ("data.max_length=256", "training.batch_tokens=2048")
GPT2 = Case(
    recipe="causal-lm", kind="decoder", text="novel.txt", vocab_size=8000, d_model=384, n_layers=6, d_ff=1536, peers=STYLES,
    ours=("model.preset=gpt2-2019", "model.max_positions=256", *LINES), targets={PLAIN: 1.25},
)  # fmt: skip
BERT = Case(
    recipe="masked-lm", kind="masked", text="novel.txt", vocab_size=8000, d_model=256, n_layers=4, d_ff=1024, peers=STYLES,
    ours=("model.preset=bert-2018", "objective.mask=tokens", *LINES), targets={PLAIN: 1.5},
)  # fmt: skip
MARIAN = Case(
    recipe="translate", kind="seq2seq", text="pairs.tsv.xz", vocab_size=8000, d_model=256, n_layers=3, d_ff=1024, dropout=0.1,
    ours=(
        "model.preset=vaswani-2017", "model.n_decoder_layers=3", "data.source=en", "data.target=zh", "data.max_length=255",
        f"training.batch_tokens={BUDGET}", "training.guidance=0", "training.warm_start=false",
    ),
    peers={
        "Trainer, padded": ("--style", "default", "--batches", "padded"),
        "Trainer, its length groups": ("--style", "default", "--batches", "grouped"),
        "Trainer, tuned, token budget": ("--style", "tuned", "--batches", "budget", "--budget", str(BUDGET)),
    },
    targets={"Trainer, padded": 2.4, "Trainer, its length groups": 1.15},
)  # fmt: skip
CASES: dict[str, Case] = {
    "decoder": GPT2,
    "decoder, dropout 0.1": dataclasses.replace(GPT2, dropout=0.1),
    "masked-8k": BERT,
    "masked-30k": dataclasses.replace(BERT, vocab_size=30_000, targets={PLAIN: 2.4}),
    "translation": MARIAN,
}
ONLY = ("decoder", "masked-8k", "masked-30k", "translation", "ceiling")
CEILING_TARGET = 0.75


def main() -> int:
    settings = parse()
    with tempfile.TemporaryDirectory() as scratch:
        lines = bench(Path(scratch), settings)
    publish(lines, write=settings.write)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--only", nargs="+", choices=ONLY, default=ONLY, help="what to measure (default: all)")
    add("--runs", type=int, default=5, help="of each side (default 5)")
    add("--seconds", type=float, default=20.0, help="of each run that are measured (default 20)")
    add("--threads", type=int, default=os.cpu_count(), help="for both (default: one a core)")
    add(
        "--peer-python",
        default=sys.executable,
        help="of an environment with transformers and accelerate (default: this one)",
    )
    add("--noisy", action="store_true", help="start even while something else uses the processor")
    add("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    return parser.parse_args()


def bench(folder: Path, settings: argparse.Namespace) -> list[str]:
    prepare(folder)
    lines: list[str] = []
    machine: Row = {}
    for name, case in CASES.items():
        wanted = {name.partition(",")[0]} | ({"ceiling"} if name == "decoder" else set())
        if not wanted & set(settings.only):
            continue
        machine = wait_for_quiet(settings.noisy)
        rows = list(measure(folder, name, case, settings))
        lines += table(name, case, rows, machine, ceiling="ceiling" in wanted & set(settings.only))
    said = f"`benchmarks/throughput.py --runs {settings.runs} --seconds {settings.seconds:g}`"
    began = [
        f"## Tokens per second in training, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"{said} at commit {commit()}; {heading(machine, settings.threads)}.",
        "Medians, the slowest and the fastest run in brackets; the ratio is ours to the peer's, the median of neighbouring runs.",
    ]
    return began + lines


# What is trained on


def prepare(folder: Path) -> None:
    """The texts, and a tokeniser for each vocabulary, which both sides read."""
    from ciyuan.data import Corpus, DataSettings
    from ciyuan.recipe.tasks.causal_lm import DECODER_TOKENS
    from ciyuan.text import BERT_TOKENS, SpecialTokens, Tokenizer, TokenizerSettings

    with lzma.open(NOVEL, "rt", encoding="utf-8") as file:
        novel = "\n".join(line for line in file.read().split("\n") if line.strip())
    (folder / "novel.txt").write_text(novel, encoding="utf-8")  # one document, so that no row holds two
    shutil.copy(PAIRS, folder / "pairs.tsv.xz")
    Tokenizer.train([novel], TokenizerSettings(kind="bpe", vocab_size=8000), DECODER_TOKENS, template="bos").save(
        folder / "decoder-8000"
    )
    words = Tokenizer.train(
        [novel], TokenizerSettings(kind="wordpiece", vocab_size=8000), BERT_TOKENS, template="cls-sep"
    )
    for size in (8000, 30_000):
        words.save(folder / f"masked-{size}")
        widen(folder / f"masked-{size}/tokenizer.json", size)
    pairs = Corpus(DataSettings(train=(str(PAIRS),), dev=None, source="en", target="zh"), "pairs").texts()
    Tokenizer.train(pairs, TokenizerSettings(kind="char-bpe", vocab_size=8000), SpecialTokens()).save(
        folder / "seq2seq-8000"
    )


def widen(path: Path, size: int) -> None:
    """Give a vocabulary as many tokens as it is to have, with ones that never occur, as BERT's own has them."""
    found = json.loads(path.read_text(encoding="utf-8"))
    vocab = found["model"]["vocab"]
    for number in range(len(vocab), size):
        vocab[f"[unused{number}]"] = number
    path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


# Runs


def measure(folder: Path, name: str, case: Case, settings: argparse.Namespace) -> Iterator[dict[str, Row]]:
    """One round after the other: by side, what came of its run; under "ceiling" what the machine can do, before and after ours."""
    for number in range(settings.runs):
        watch = Watch()
        before = ceiling(settings.threads)
        rounds: dict[str, Row] = {"ours": ours(folder, case, number + 1, settings)}
        rounds["ceiling"] = {"flops": max(before, ceiling(settings.threads))}
        step_tokens = rounds["ours"]["tokens_per_step"]
        for side, options in case.peers.items():
            rounds[side] = peer(folder, case, [*options, "--seed", str(number + 1)], step_tokens, settings)
        rounds["machine"] = watch.read()
        shown = ", ".join(
            f"{side} {row['tokens_per_second']:,.0f}" for side, row in rounds.items() if "tokens_per_second" in row
        )
        print(f"{name}, run {number + 1}: {shown} tokens/s", file=sys.stderr, flush=True)
        yield rounds


def ours(folder: Path, case: Case, seed: int, settings: argparse.Namespace) -> Row:
    """`ciyuan train`, as a user types it, read from what it logs of every step."""
    out = folder / "ours"
    shutil.rmtree(out, ignore_errors=True)
    options = {
        **{f"training.{name}": value for name, value in ADAMW.items()},
        "training.seed": seed, "training.threads": settings.threads, "training.log_every": 1, "training.accumulate": 1,
        "training.label_smoothing": 0.0, "training.schedule": "linear", "training.warmup": 0, "training.checkpoint_every": 10**9,
        "training.evaluate_every": 10**9, "data.dev": 0, "tokenizer": str(folder / f"{case.kind}-{case.vocab_size}"),
        "model.d_model": case.d_model, "model.n_layers": case.n_layers, "model.n_heads": case.n_heads, "model.d_ff": case.d_ff,
        "model.dropout": case.dropout, "model.attention_dropout": 0.0 if case.kind == "seq2seq" else case.dropout,
        "model.initialisation": "normal",
    }  # fmt: skip
    program = str(Path(sys.executable).with_name("ciyuan"))
    command = [program, "train", case.recipe, "--data", str(folder / case.text), "--out", str(out)]
    command += ["--minutes", f"{(settings.seconds + WARM) / 60:.4f}"]
    for option in [*(f"{name}={json.dumps(value)}" for name, value in options.items()), *case.ours]:
        command += ["--set", option]
    call(command, log=folder.parent / "throughput.log", threads=settings.threads)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return speed([(step["elapsed"], step["tokens"]) for step in steps if "loss" in step]) | {
        "params": stored_parameters(out / "model.safetensors")
    }


def speed(ends: Sequence[tuple[float, int]]) -> Row:
    """Tokens per second from the end of the first step after the warm-up to that of the last. ends: (seconds, tokens) of each."""
    first = next((i for i, (at, _) in enumerate(ends) if at - ends[0][0] >= WARM), len(ends))
    if first + 1 >= len(ends):
        sys.exit(f"{len(ends)} steps are too few to measure: give more --seconds")
    steps, tokens = len(ends) - 1 - first, ends[-1][1] - ends[first][1]
    return {
        "tokens_per_second": tokens / (ends[-1][0] - ends[first][0]),
        "tokens_per_step": tokens / steps,
        "steps": steps,
    }


def peer(folder: Path, case: Case, options: Sequence[str], step_tokens: float, settings: argparse.Namespace) -> Row:
    command = [
        settings.peer_python, str(PEER), case.kind, "--train", str(folder / case.text),
        "--tokenizer", str(folder / f"{case.kind}-{case.vocab_size}"), "--seconds", f"{settings.seconds:g}", "--warm", f"{WARM:g}",
        "--threads", str(settings.threads), "--d-model", str(case.d_model), "--layers", str(case.n_layers),
        "--heads", str(case.n_heads), "--d-ff", str(case.d_ff), "--dropout", f"{case.dropout:g}", "--lr", f"{ADAMW['lr']}",
        "--step-tokens", f"{step_tokens:.1f}", *options,
    ]  # fmt: skip
    found: Row = json.loads(call(command, log=folder.parent / "throughput.log", threads=settings.threads))
    return found


def ceiling(threads: int, seconds: float = 2.0) -> float:
    """Floating-point operations per second of the best of some products of square fp32 matrices."""
    import torch

    torch.set_num_threads(threads)
    best = 0.0
    for size in (768, 1536, 3072):
        a, b = torch.randn(size, size), torch.randn(size, size)
        c = a @ b
        began = time.perf_counter()
        while time.perf_counter() - began < seconds / 3:
            start = time.perf_counter()
            torch.mm(a, b, out=c)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def step_flops_per_token(case: Case, width: int = 256) -> float:
    """Of a decoder's matrix products, forward and backward, for each token of a full row.

    A product of x (T, D) by a weight (D, F) is 2 T D F operations, and again for each of the gradients of x and of the weight.
    Attention's two products are 2 T² D operations each, half of which causality makes void; the backward pass has four.
    """
    d = case.d_model
    weights = case.n_layers * (4 * d * d + 2 * d * case.d_ff) + d * case.vocab_size
    attention = case.n_layers * 2 * width * d / 2 * 2
    return 3 * (2 * weights + attention)


# The report


def table(name: str, case: Case, rounds: Sequence[dict[str, Row]], machine: Row, *, ceiling: bool) -> list[str]:
    ours = [one["ours"]["tokens_per_second"] for one in rounds]
    shares = [one["machine"]["others_share"] for one in rounds if one["machine"]["others_share"] is not None]
    size = rounds[0]["ours"]["params"]
    others = f"{max(shares):.0%} at most (load before {machine['load_before'][0]})" if shares else "an unknown share"
    lines = [
        "",
        f"**{name}**: {case.d_model} × {case.n_layers}, vocabulary {case.vocab_size:,}, dropout {case.dropout:g}",
        f"(others took {others})",
        "",
        "| who | parameters | tokens a step | tokens/s | ours to it | target |",
        "|---|---|---|---|---|---|",
        f"| ours | {size / 1e6:.2f}M | {rounds[0]['ours']['tokens_per_step']:,.0f} | {spread(ours)} | | |",
    ]  # fmt: skip
    for side in case.peers:
        theirs = [one[side]["tokens_per_second"] for one in rounds]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        target = case.targets.get(side)
        lines.append(
            f"| {side} | {rounds[0][side]['params'] / 1e6:.2f}M | {rounds[0][side]['tokens_per_step']:,.0f} | {spread(theirs)} | "
            f"**{ratio:.2f}×** | {verdict(ratio, target)} |"
        )
    if ceiling:
        flops = step_flops_per_token(case)
        found = [one["ours"]["tokens_per_second"] * flops / one["ceiling"]["flops"] for one in rounds]
        share = statistics.median(found)
        peak = statistics.median(one["ceiling"]["flops"] for one in rounds)
        what = f"share of {peak / 1e9:.0f} GFLOP/s in the training step, of {flops / 1e6:.1f} MFLOP of products a token"
        lines += [
            "",
            f"- {what}: **{share:.2f}** ({min(found):.2f} to {max(found):.2f}); target {verdict(share, CEILING_TARGET)}",
        ]  # fmt: skip
    if shares and max(shares) > SLACK:
        lines += ["", "- disturbed: other work used the machine meanwhile"]
    return lines


def verdict(value: float, target: float | None) -> str:
    if target is None:
        return ""
    return f"{target:g}, {'reached' if value >= target else 'missed'}"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


if __name__ == "__main__":
    sys.exit(main())
