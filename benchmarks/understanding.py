"""Does pretraining help? A classifier of Chinese statutes from a pretrained encoder, from nothing, and by TF-IDF.

    python benchmarks/understanding.py                         # about half an hour on two cores
    python benchmarks/understanding.py --pretrain 1 --tune 0.5 --seeds 1

Statutes are parted by law, never by article: of each department one law in five is what all are judged on. The encoder is
pretrained by `ciyuan train masked-lm` on the running text of the laws to train on alone; the classifiers are trained on the labels
of the same laws, and a further part (one law in twelve) chooses the best step. TF-IDF is of one to three characters, with a linear
support-vector machine whose C is chosen among five on the same tenth (scikit-learn). Every figure is macro-F1 over the articles
of the held-out laws, and each is of one seed; the medians stand below.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples/data/law.zh.train.jsonl.xz"
SMALL = ("model.d_model=128", "model.n_layers=4", "model.n_heads=4", "model.d_ff=384", "tokenizer.vocab_size=4000")
"""A network that a few minutes of two cores can teach."""
BATCHES = ("training.batch_tokens=2048", "training.embedding_lr=0.004")
MASKING = (*SMALL, *BATCHES, "objective.mask_rate=0.3")
TUNING = (*BATCHES, "training.optimizer=muon", "training.lr=auto", "objective.class_weights=balanced")
"""The same for the pretrained network and for the one that starts from nothing; TF-IDF's classes are balanced too."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pretrain", type=float, default=6.0, help="minutes of pretraining (default 6)")
    parser.add_argument("--tune", type=float, default=3.0, help="minutes of each fine-tuning (default 3)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = bench(Path(scratch), settings)
    publish(lines, write=settings.write)
    return 0


def publish(lines: Sequence[str], *, write: bool) -> None:
    """Print a section, and with `write` append it to RESULTS.md."""
    print("\n".join(lines))
    if write:
        with (ROOT / "benchmarks/RESULTS.md").open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


def bench(folder: Path, settings: argparse.Namespace) -> list[str]:
    parts = split(folder)
    encoder = folder / "encoder"
    train("masked-lm", encoder, parts["running"], settings.pretrain, MASKING, dev=None)
    found: dict[str, list[float]] = {"pretrained": [], "from nothing": []}
    for seed in range(1, settings.seeds + 1):
        for name, init in (("pretrained", encoder), ("from nothing", None)):
            out = folder / f"{name.replace(' ', '-')}-{seed}"
            own = TUNING if init is not None else (*SMALL, *TUNING)
            train(
                "classify",
                out,
                parts["train"],
                settings.tune,
                (*own, f"training.seed={seed}"),
                dev=parts["choose"],
                init=init,
            )
            found[name].append(score(out, parts["test"]))
            print(f"{name}, seed {seed}: macro-F1 {found[name][-1]:.2f}", file=sys.stderr, flush=True)
    baseline = tf_idf(parts)
    gain = statistics.median(found["pretrained"]) - statistics.median(found["from nothing"])
    return [
        f"## Statutes by department of law, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"`benchmarks/understanding.py --pretrain {settings.pretrain:g} --tune {settings.tune:g} --seeds {settings.seeds}`",
        f"on {os.cpu_count()} cores; macro-F1 on {count(parts['test']):,} articles of laws that nobody saw.",
        "",
        "| who | macro-F1, by seed | median |",
        "|---|---|---|",
        *(
            f"| {name} | {', '.join(f'{value:.2f}' for value in values)} | {statistics.median(values):.2f} |"
            for name, values in found.items()
        ),
        f"| TF-IDF and a linear SVM | {baseline:.2f} | {baseline:.2f} |",
        "",
        f"- pretraining for {settings.pretrain:g} minutes is worth {gain:+.2f} macro-F1",
        f"- against TF-IDF: {statistics.median(found['pretrained']) - baseline:+.2f}",
    ]


def split(folder: Path) -> dict[str, Path]:
    """The articles by law: to train on, to choose by, to judge on; and the running text of the first alone.

    Of each department of law one law in five is judged on and one in twelve chooses, in the order of their names' hashes: every
    label occurs in every part, or the mean over labels would be that of labels that are not there.
    """
    laws: dict[str, dict[str, list[dict[str, str]]]] = {}
    with lzma.open(DATA, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            laws.setdefault(row["label"], {}).setdefault(row["law"], []).append(row)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "choose": [], "test": []}
    for label in sorted(laws):
        names = sorted(laws[label], key=lambda name: hashlib.sha256(name.encode()).digest())
        tested = max(1, round(len(names) / 5))
        chosen = tested + max(1, round(len(names) / 12))
        for i, name in enumerate(names):
            rows["test" if i < tested else "choose" if i < chosen else "train"] += laws[label][name]
    paths = {}
    for name, some in rows.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some), encoding="utf-8")
    paths["running"] = folder / "running.txt"
    running: dict[str, list[str]] = {}
    for row in rows["train"]:
        running.setdefault(row["law"], []).append(row["text"])
    paths["running"].write_text("\n\n".join("\n".join(texts) for texts in running.values()), encoding="utf-8")
    return paths


def train(
    recipe: str,
    out: Path,
    data: Path,
    minutes: float,
    options: Sequence[str],
    *,
    dev: Path | None,
    init: Path | None = None,
) -> None:
    """`ciyuan train`, as a user types it."""
    program = str(Path(sys.executable).with_name("ciyuan"))
    command = [program, "train", recipe, "--data", str(data), "--out", str(out), "--minutes", f"{minutes:g}"]
    command += ["--dev", str(dev)] if dev is not None else []
    command += ["--init", str(init)] if init is not None else []
    for option in options:
        command += ["--set", option]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def score(model: Path, data: Path) -> float:
    program = str(Path(sys.executable).with_name("ciyuan"))
    done = subprocess.run(
        [program, "evaluate", str(model), "--data", str(data), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(json.loads(done.stdout)["metrics"]["macro_f1"])


def tf_idf(parts: dict[str, Path]) -> float:
    """The best of five linear classifiers on characters, chosen and judged as ours are."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.svm import LinearSVC

    texts, labels = {}, {}
    for name in ("train", "choose", "test"):
        rows = [json.loads(line) for line in parts[name].read_text(encoding="utf-8").splitlines()]
        texts[name], labels[name] = [row["text"] for row in rows], [row["label"] for row in rows]
    features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    known = features.fit_transform(texts["train"])

    def macro_f1(model: Any, name: str) -> float:
        return 100 * float(f1_score(labels[name], model.predict(features.transform(texts[name])), average="macro"))

    models = [LinearSVC(C=c, class_weight="balanced").fit(known, labels["train"]) for c in (0.03, 0.1, 0.3, 1.0, 3.0)]
    return macro_f1(max(models, key=lambda model: macro_f1(model, "choose")), "test")


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main())
