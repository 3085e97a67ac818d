"""Language models in minutes: how soon ours has the best score of nanoGPT's CPU setting, and of `transformers`' GPT-2 and Trainer.

    python benchmarks/language.py --peer nanogpt                   # about 35 minutes of a quiet machine for each text
    python benchmarks/language.py --peer gpt2 --minutes 6          # about 80 minutes for each text
    python benchmarks/language.py --minutes 0.2 --steps 60 --limit 4000 --rates 1e-3,2e-3 --seeds 1 --noisy --out /tmp/l/runs.jsonl

nanogpt: benchmarks/peers/nanogpt.py, 2,000 steps at its published rate ("as shipped") and at the best of --rates. It reads
characters. Ours has two ways: a tokeniser of its own, and characters too. gpt2: benchmarks/peers/trainer.py, --minutes at
each of --rates; both sides read with one tokeniser, learnt from what is trained on. In both, "classic" is our engine with
GPT-2's network of the peer's sizes, AdamW and a cosine at the peer's best rate: what the engine alone is worth.

Both sides train on the first nine tenths of the lines of a text, blank lines left out, and are scored in bits per byte on the
last tenth, all of it, which ours never sees: its best step is chosen on lines of its own nine tenths. GPT-2 and ours are
scored by `transformers` from the folder that each leaves (benchmarks/peers/scorer.py), nanoGPT in the same way by its own
script. The protocol is that of benchmarks/contest.py; minutes of ours include evaluation and saving, the peer's are of
training alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from contest import Contest, Goal, Run, Side, Start, Terms, report
from machine import ROOT, Row, call, publish, stored_parameters

TEXTS = (ROOT / "examples/data/moby-dick.en.txt.xz", ROOT / "examples/data/sanguo.zh.txt.xz")
PEERS = ROOT / "benchmarks/peers"
SHIPPED = 1e-3
"""nanoGPT's rate for characters."""
HELD_OUT = 0.1
OWN_DEV = 200
"""Lines of its nine tenths by which ours chooses its best step."""
WIDTH = 256
"""Tokens of a row, for GPT-2 and for ours."""

Options = tuple[str, ...]
SMALL: Options = (
    "model.d_model=128", "model.n_layers=4", "model.n_heads=4", "data.max_length=256", "training.batch_tokens=1024",
)  # fmt: skip
OWN_OF_NANOGPT: dict[bool, Options] = {
    False: (*SMALL, "model.n_kv_heads=2", "model.d_ff=320", "tokenizer.kind=bpe", "tokenizer.vocab_size=1024"),
    True: (*SMALL, "model.n_kv_heads=4", "model.d_ff=352", "tokenizer.kind=bpe", "tokenizer.vocab_size=4096"),
}
"""What makes ours as large as nanoGPT's network. True: where a text has thousands of characters, each a row of the peer's table."""
CHARACTERS: Options = (
    *SMALL, "model.n_kv_heads=4", "model.d_ff=352",
    "tokenizer.kind=characters", "tokenizer.vocab_size=20000", "tokenizer.coverage=1",
)  # fmt: skip
MANY_CHARACTERS = 1000
CLASSIC: Options = (
    "model.preset=gpt2-2019", "model.dropout=0", "model.attention_dropout=0", "model.initialisation=normal",
    "training.optimizer=adamw", "training.schedule=cosine", "training.final_lr=0.1", "training.warmup=0.05",
    "training.weight_decay=0.1",
)  # fmt: skip


def main() -> int:
    settings = parse()
    for path in settings.data:
        text = prepare(path, settings)
        for peer in settings.peer:
            contest = nanogpt(text, settings) if peer == "nanogpt" else gpt2(text, settings)
            rows = contest.carry_out()
            publish(report(contest, rows, note(peer, text, settings)), write=settings.write)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--peer", nargs="+", choices=("nanogpt", "gpt2"), default=("nanogpt", "gpt2"), help="default: both")
    add(
        "--data",
        type=Path,
        nargs="+",
        default=TEXTS,
        help="texts, .txt or .txt.xz (default: moby-dick.en and sanguo.zh)",
    )
    add("--minutes", type=float, default=6.0, help="of GPT-2 at each rate (default 6)")
    add("--steps", type=int, default=2000, help="of nanoGPT (default 2000)")
    add(
        "--rates",
        type=numbers,
        default=[5e-4, 1e-3, 2e-3, 4e-3, 8e-3],
        help="of the peer (default 5e-4,1e-3,2e-3,4e-3,8e-3)",
    )
    add("--shares", type=numbers, default=[1 / 4, 1 / 3, 1 / 2], help="of the peer's time (default 0.25,0.3333,0.5)")
    add("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[1, 2, 3], help="default 1,2,3")
    add("--vocab-size", type=int, default=4000, help="of GPT-2 and ours beside it (default 4000)")
    add("--limit", type=int, help="score on so many characters only, to try things out")
    add("--threads", type=int, default=os.cpu_count(), help="for both (default: one a core)")
    add(
        "--peer-python",
        default=sys.executable,
        help="of an environment with transformers and accelerate (default: this one)",
    )
    add("--out", type=Path, default=ROOT / ".bench/language/runs.jsonl", help="where finished runs are kept")
    add("--noisy", action="store_true", help="start even while something else uses the processor")
    add("--write", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    return parser.parse_args()


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


# What is trained on, and judged on


@dataclasses.dataclass(frozen=True)
class Text:
    """A text in two parts, and a folder for what is made from it."""

    name: str
    folder: Path

    @property
    def train(self) -> Path:
        return self.folder / "train.txt"

    @property
    def dev(self) -> Path:
        return self.folder / "dev.txt"


def prepare(path: Path, settings: argparse.Namespace) -> Text:
    """The lines of a text, the first nine tenths apart from the last. One document each: the whole of it is scored."""
    if not path.is_file():
        sys.exit(f"{path} is not there: name a text with --data")
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        lines = [line.strip() for line in file.read().split("\n") if line.strip()]
    name = path.name.removesuffix(".xz").removesuffix(".txt")
    text = Text(name, settings.out.parent / name)
    text.folder.mkdir(parents=True, exist_ok=True)
    held_out = round(HELD_OUT * len(lines))
    text.train.write_text("\n".join(lines[:-held_out]), encoding="utf-8")
    text.dev.write_text("\n".join(lines[-held_out:])[: settings.limit], encoding="utf-8")
    return text


def note(peer: str, text: Text, settings: argparse.Namespace) -> str:
    extent = f"{len(text.train.read_bytes()):,} bytes to train on, {len(text.dev.read_bytes()):,} held out"
    length = f"--steps {settings.steps}" if peer == "nanogpt" else f"--minutes {settings.minutes:g}"
    return f"`benchmarks/language.py --peer {peer} {length}`; {extent}."


# The contests


def nanogpt(text: Text, settings: argparse.Namespace) -> Contest:
    script = PEERS / "nanogpt.py"

    def peer(run: Run) -> Row:
        command = [
            settings.peer_python, str(script), "--train", str(text.train), "--dev", str(text.dev), "--lr", f"{run.rate:g}",
            "--seed", str(run.seed), "--steps", str(settings.steps), "--threads", str(settings.threads),
        ]  # fmt: skip
        found: Row = json.loads(call(command, log=settings.out.parent / "last.log", threads=settings.threads))
        return found

    many = len(set(text.train.read_text(encoding="utf-8"))) >= MANY_CHARACTERS
    classic = (*CLASSIC, "model.max_positions=64", "data.max_length=64", "model.d_model=128", "model.n_layers=4", "model.n_heads=4",
               "training.batch_tokens=768", "training.betas=[0.9, 0.99]", "training.accumulate=1", *CHARACTERS[-3:])  # fmt: skip
    shares = tuple(settings.shares)
    terms = Terms(
        title=f"nanoGPT's CPU setting, {text.name}", metric="bits_per_byte", higher_is_better=False, others=("nll",),
        goals=[Goal("as shipped", SHIPPED, shares, target=1 / 4), Goal("rate tuned", None, shares, target=1 / 2)],
        rates=settings.rates, seeds=settings.seeds, minutes=None, threads=settings.threads,
        asked={"steps_asked": settings.steps, "limit": settings.limit},
    )  # fmt: skip
    sides = [
        Side("ours", ours(text, OWN_OF_NANOGPT[many], settings)),
        Side("ours, characters", ours(text, CHARACTERS, settings), every_seed=False),
        Side("classic", ours(text, classic, settings), every_seed=False, shares=False, at_their_rate=True),
    ]
    return Contest(terms, settings.out, peer=peer, sides=sides, files=[text.train, text.dev], noisy=settings.noisy)


def gpt2(text: Text, settings: argparse.Namespace) -> Contest:
    reads = tokenizer(text, settings.vocab_size)

    def peer(run: Run) -> Row:
        out = text.folder / "gpt2"
        shutil.rmtree(out, ignore_errors=True)
        command = [
            settings.peer_python, str(PEERS / "trainer.py"), "gpt2", "--train", str(text.train), "--tokenizer", str(reads),
            "--out", str(out), "--minutes", f"{run.minutes:g}", "--lr", f"{run.rate:g}", "--seed", str(run.seed),
            "--threads", str(settings.threads), "--width", str(WIDTH), "--beta2", "0.95", "--weight-decay", "0.1",
        ]  # fmt: skip
        found: Row = json.loads(call(command, log=settings.out.parent / "last.log", threads=settings.threads))
        return found | {"scores": judge(out, text, settings)}

    sizes = ("model.d_model=256", "model.n_layers=6", "model.n_heads=4", "data.max_length=256")
    modern = (*sizes, "model.n_kv_heads=2", "model.d_ff=768", "training.batch_tokens=2048")
    classic = (*CLASSIC, *sizes, "model.max_positions=256", "training.batch_tokens=2048", "training.betas=[0.9, 0.95]")
    terms = Terms(
        title=f"GPT-2 and the Trainer, {text.name}", metric="bits_per_byte", higher_is_better=False, others=("nll",),
        goals=[Goal("rate tuned", None, tuple(settings.shares), target=1 / 3)],
        rates=settings.rates, seeds=settings.seeds, minutes=settings.minutes, threads=settings.threads,
        asked={"vocab_size": settings.vocab_size, "limit": settings.limit},
    )  # fmt: skip
    sides = [
        Side("ours", ours(text, (*modern, f"tokenizer={reads}"), settings)),
        Side("classic", ours(text, (*classic, f"tokenizer={reads}"), settings), every_seed=False, shares=False, at_their_rate=True),
    ]  # fmt: skip
    return Contest(terms, settings.out, peer=peer, sides=sides, files=[text.train, text.dev], noisy=settings.noisy)


def tokenizer(text: Text, vocab_size: int) -> Path:
    """What both sides read with: byte-level BPE, learnt from what is trained on."""
    from ciyuan.recipe.tasks.causal_lm import DECODER_TOKENS
    from ciyuan.text import Tokenizer, TokenizerSettings

    folder = text.folder / f"bpe-{vocab_size}"
    learnt = text.train.read_text(encoding="utf-8")
    made = Tokenizer.train(
        [learnt], TokenizerSettings(kind="bpe", vocab_size=vocab_size), DECODER_TOKENS, template="bos"
    )
    made.save(folder)
    return folder


# Ours


def ours(text: Text, options: Sequence[str], settings: argparse.Namespace) -> Start:
    """`ciyuan train causal-lm` with these options, scored by the judge."""

    def start(run: Run) -> Row:
        out = text.folder / run.who.replace(", ", "-")
        own = [*options, f"data.dev={OWN_DEV}"]
        own += [] if run.rate is None else [f"training.lr={run.rate:g}"]
        found = train("causal-lm", out, text.train, own, run, settings)
        return found | {"scores": judge(out, text, settings)}

    return start


def train(recipe: str, out: Path, data: Path, options: Sequence[str], run: Run, settings: argparse.Namespace) -> Row:
    """`ciyuan train`, as a user types it. Returns what its log and its folder say."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("ciyuan")),
        "train",
        recipe,
        "--data",
        str(data),
        "--out",
        str(out),
        "--json",
    ]
    command += ["--minutes", f"{run.minutes:g}"]
    for option in (*options, f"training.seed={run.seed}", f"training.threads={settings.threads}"):
        command += ["--set", option]
    answer = json.loads(call(command, log=settings.out.parent / "last.log", threads=settings.threads))
    return {
        "seconds": answer["seconds"],
        "steps": answer["steps"],
        "params": stored_parameters(out / "model.safetensors"),
    }


def judge(model: Path, text: Text, settings: argparse.Namespace) -> dict[str, float]:
    command = [
        settings.peer_python, str(PEERS / "scorer.py"), "language", str(model), "--text", str(text.dev), "--width", str(WIDTH),
        "--threads", str(settings.threads),
    ]  # fmt: skip
    if (widest := positions(model)) < WIDTH:
        command[command.index("--width") + 1] = str(widest)
    found: dict[str, float] = json.loads(call(command, log=settings.out.parent / "last.log", threads=settings.threads))
    return found


def positions(model: Path) -> int:
    """The most tokens that a model reads at once."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return int(config.get("n_positions", config.get("max_position_embeddings", WIDTH)))


if __name__ == "__main__":
    sys.exit(main())
