"""Does pretraining help? A classifier of Chinese statutes from a pretrained encoder, from nothing, and by TF-IDF.

    python benchmarks/understanding.py                         # about forty minutes on two cores
    python benchmarks/understanding.py --pretrain 1 --tune 0.5 --seeds 1

The encoder is pretrained by `ciyuan train masked-lm` on the running text of all statutes, without a label, as whoever has a pile of
documents to sort would do. Labels are parted by law, never by article: of each department of law one law in five is what all are
judged on, one in twelve chooses the best step, and the rest is learnt from. TF-IDF is of one to three characters, weighed by the
same running text, with a linear support-vector machine of balanced classes whose C is chosen among five on the same part
(scikit-learn). Each figure is over the articles of the laws judged on and of one seed; the medians stand below.
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
TEXT = ROOT / "examples/data/law.zh.txt.xz"
Score = tuple[float, float]
"""Macro-F1 and accuracy, in per cent."""
SMALL = ("model.d_model=128", "model.n_layers=4", "model.n_heads=4", "model.d_ff=384", "tokenizer.vocab_size=4000")
"""A network that a few minutes of two cores can teach."""
BATCHES = ("training.batch_tokens=2048", "training.embedding_lr=0.004")
MASKING = (*SMALL, *BATCHES, "objective.mask_rate=0.3")
TUNING = (*BATCHES, "training.optimizer=muon", "training.lr=auto", "model.dropout=0.1")
"""The same for the pretrained network and for the one that starts from nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pretrain", type=float, default=6.0, help="minutes of pretraining (default 6)")
    parser.add_argument("--tune", type=float, default=3.0, help="minutes of each fine-tuning (default 3)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3)")
    parser.add_argument("--folder", type=Path, help="keep the runs here; those that are finished are not repeated")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = settings.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines = bench(folder, settings)
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
    train("masked-lm", encoder, TEXT, settings.pretrain, MASKING, dev=None)
    found: dict[str, list[Score]] = {"pretrained": [], "from nothing": []}
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
            print(f"{name}, seed {seed}: macro-F1, accuracy {found[name][-1]}", file=sys.stderr, flush=True)
    baseline = tf_idf(parts)
    ours, nothing = (median([macro for macro, _ in found[name]]) for name in ("pretrained", "from nothing"))
    return [
        f"## Statutes by department of law, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"`benchmarks/understanding.py --pretrain {settings.pretrain:g} --tune {settings.tune:g} --seeds {settings.seeds}`",
        f"on {os.cpu_count()} cores; {count(parts['test']):,} articles of laws whose labels nobody saw.",
        "",
        "| who | macro-F1, by seed | median | accuracy, median |",
        "|---|---|---|---|",
        *(
            f"| {name} | {', '.join(f'{macro:.2f}' for macro, _ in scores)} | {median([macro for macro, _ in scores]):.2f} "
            f"| {median([accuracy for _, accuracy in scores]):.2f} |"
            for name, scores in (*found.items(), ("TF-IDF and a linear SVM", [baseline]))
        ),
        "",
        f"- pretraining for {settings.pretrain:g} minutes is worth {ours - nothing:+.2f} macro-F1",
        f"- against TF-IDF: {ours - baseline[0]:+.2f}",
    ]


def split(folder: Path) -> dict[str, Path]:
    """The articles by law: to train on, to choose by, to judge on.

    Of each department of law one law in five is judged on and one in twelve chooses, in the order of their names' hashes: every
    label occurs in every part, or the mean over labels would be that of labels that are not there. The longest law of each
    department, a code as a rule, is learnt from: where it is judged on, little else is.
    """
    laws: dict[str, dict[str, list[dict[str, str]]]] = {}
    with lzma.open(DATA, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            laws.setdefault(row["label"], {}).setdefault(row["law"], []).append(row)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "choose": [], "test": []}
    for label in sorted(laws):
        longest = max(laws[label], key=lambda name: len(laws[label][name]))
        names = [
            *sorted(laws[label].keys() - {longest}, key=lambda name: hashlib.sha256(name.encode()).digest()),
            longest,
        ]
        tested = max(1, round(len(names) / 5))
        chosen = tested + max(1, round(len(names) / 12))
        for i, name in enumerate(names):
            rows["test" if i < tested else "choose" if i < chosen else "train"] += laws[label][name]
    paths = {}
    for name, some in rows.items():
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some), encoding="utf-8")
    return paths


def running_text(parts: Sequence[Path], out: Path) -> int:
    """The articles as documents, one for each law; how many laws."""
    laws: dict[str, list[str]] = {}
    for path in parts:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            laws.setdefault(row["law"], []).append(row["text"])
    out.write_text("\n\n".join("\n".join(texts) for texts in laws.values()), encoding="utf-8")
    return len(laws)


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
    command = [
        program,
        "train",
        recipe,
        "--data",
        str(data),
        "--out",
        str(out),
        "--minutes",
        f"{minutes:g}",
        "--resume",
    ]
    command += ["--dev", str(dev)] if dev is not None else []
    command += ["--init", str(init)] if init is not None else []
    for option in options:
        command += ["--set", option]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def score(model: Path, data: Path) -> Score:
    """Macro-F1 and accuracy."""
    program = str(Path(sys.executable).with_name("ciyuan"))
    done = subprocess.run(
        [program, "evaluate", str(model), "--data", str(data), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    metrics = json.loads(done.stdout)["metrics"]
    return float(metrics["macro_f1"]), float(metrics["accuracy"])


def tf_idf(parts: dict[str, Path]) -> Score:
    """The best of five linear classifiers on characters, chosen and judged as ours are."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.svm import LinearSVC

    texts, labels = {}, {}
    for name in ("train", "choose", "test"):
        rows = [json.loads(line) for line in parts[name].read_text(encoding="utf-8").splitlines()]
        texts[name], labels[name] = [row["text"] for row in rows], [row["label"] for row in rows]
    features = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    with lzma.open(TEXT, "rt", encoding="utf-8") as lines:
        features.fit([line for line in lines if line.strip()])
    known = features.transform(texts["train"])

    def scores(model: Any, name: str) -> Score:
        given = model.predict(features.transform(texts[name]))
        return 100 * float(f1_score(labels[name], given, average="macro")), 100 * float(
            accuracy_score(labels[name], given)
        )

    models = [LinearSVC(C=c, class_weight="balanced").fit(known, labels["train"]) for c in (0.03, 0.1, 0.3, 1.0, 3.0)]
    return scores(max(models, key=lambda model: scores(model, "choose")), "test")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main())
