"""Every preset, trained for a short time, exported to every format in every precision: does the other tool answer as ciyuan does?

    python benchmarks/export_matrix.py                              # about forty minutes on one core
    python benchmarks/export_matrix.py --only modern-decoder --format gguf --models /tmp/models

Each model is `ciyuan train` on the bundled texts: a network of three layers, 128 wide, for 150 steps; that is enough for its text
to follow from what it read. Each export is proven as `ciyuan export` proves it: reopened by the format's own runtime in a fresh
process, and asked for token ids, numbers and greedy text. f32, f16 and bf16 hold the same numbers on both sides, and the largest
difference is shown in standard deviations; int8 (GGUF: q8_0) is judged by the next token, and shows the mean divergence in nats
and how often the likeliest token is the same. What a format cannot carry is refused by name, and listed; a runtime that is not
installed is said so, and proves nothing. Last, exports that are damaged on purpose: the pairs of one layer's queries in the other
order of rotary positions, which nothing but an answer can show.

Exit code 1 if an export that is whole is refused because it answers otherwise, or a damaged one is not.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from understanding import ROOT, publish

DATA = ROOT / "examples/data"
SMALL = (
    "model.d_model=128", "model.n_layers=3", "model.n_heads=4", "model.d_ff=384", "training.minutes=null", "training.threads=1",
    "data.dev=100",
)  # fmt: skip
NOVELS = ("sanguo.zh.txt.xz", "moby-dick.en.txt.xz")
PAIRS = ("help.en-zh.train.tsv.xz",)
BOTH = ("data.source=en", "data.target=zh", "tokenizer.vocab_size=2000")
ONE = ("tokenizer.vocab_size=2000",)


@dataclass(frozen=True)
class Subject:
    """A model to train: recipe, files and options. init: the subject that it starts from."""

    recipe: str
    data: tuple[str, ...]
    options: tuple[str, ...]
    init: str | None = None


SUBJECTS = {
    "gpt2-2019": Subject("causal-lm", NOVELS[1:], (*ONE, "model.preset=gpt2-2019", "model.n_kv_heads=null")),
    "modern-decoder": Subject("causal-lm", NOVELS[:1], (*ONE, "model.n_kv_heads=2")),
    "modern-decoder, no q/k-norm": Subject("causal-lm", NOVELS, (*ONE, "model.n_kv_heads=2", "model.qk_norm=false")),
    "vaswani-2017": Subject("translate", PAIRS, (*BOTH, "model.preset=vaswani-2017")),
    "m2m100-2020": Subject("translate", PAIRS, (*BOTH, "model.preset=m2m100-2020", "model.n_decoder_layers=2")),
    "modern-seq2seq": Subject("translate", PAIRS, BOTH),
    "bert-2018": Subject("masked-lm", NOVELS, (
        *ONE, "model.preset=bert-2018", "objective.next_sentence=true", "training.lr=0.003",
    )),
    "modern-encoder": Subject("masked-lm", NOVELS, ONE),
    "bert-2018, classifier": Subject("classify", ("law.zh.train.jsonl.xz",), (), "bert-2018"),
    "modern-encoder, classifier": Subject("classify", ("law.zh.train.jsonl.xz",), (), "modern-encoder"),
}  # fmt: skip
FORMATS = ("hf", "gguf", "ctranslate2", "onnx")
PRECISIONS: dict[str, dict[str, str]] = {
    "f32": {"dtype": "float32"}, "f16": {"dtype": "float16"}, "bf16": {"dtype": "bfloat16"}, "int8": {"quantize": "int8"},
}  # fmt: skip
DAMAGED = "modern-decoder"


@dataclass
class Cell:
    """What became of one export. verdict: proven, differs, refused (by name), or absent (the runtime is)."""

    verdict: str
    said: str


@dataclass
class Matrix:
    """cells: by subject, format and precision. refusals: what was said, to whom."""

    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)
    refusals: dict[str, list[str]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", choices=list(SUBJECTS), help="a model; may be repeated (default: all)")
    parser.add_argument("--format", action="append", choices=FORMATS, help="a format; may be repeated (default: all)")
    parser.add_argument("--steps", type=int, default=150, help="of each training (default 150)")
    parser.add_argument("--models", type=Path, help="where the trained models are, or are put (default: nowhere for long)")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines, good = bench(Path(scratch), settings)
    publish(lines, write=settings.write)
    return 0 if good else 1


def bench(scratch: Path, settings: argparse.Namespace) -> tuple[list[str], bool]:
    names, formats = settings.only or list(SUBJECTS), settings.format or list(FORMATS)
    models = settings.models or scratch / "models"
    started = time.monotonic()
    folders = {name: trained(name, models, settings.steps) for name in names}
    taught = time.monotonic()
    matrix = Matrix()
    for name, model in folders.items():
        for target in formats:
            for precision in PRECISIONS:
                matrix.cells[name, target, precision] = cell = exported(matrix, name, model, scratch, target, precision)
                print(f"{name}, {target}, {precision}: {cell.said}", file=sys.stderr, flush=True)
    damage = damaged(trained(DAMAGED, models, settings.steps), scratch, formats)
    minutes = (taught - started) / 60, (time.monotonic() - taught) / 60
    good = not matrix.differences and all(cell.verdict != "proven" for row in damage.values() for cell in row.values())
    return report(matrix, damage, settings, minutes), good


def trained(name: str, models: Path, steps: int) -> Path:
    """The model's folder, trained unless it is there."""
    subject, out = SUBJECTS[name], models / name.replace(", ", "-").replace("/", "").replace(" ", "-")
    if (out / "manifest.json").exists():
        return out
    command = [str(Path(sys.executable).with_name("ciyuan")), "train", subject.recipe, "--out", str(out)]
    if subject.init is not None:
        command += ["--init", str(trained(subject.init, models, steps))]
        options = [*SMALL[4:], f"training.steps={steps // 3}"]
    else:
        options = [*SMALL, f"training.steps={steps}"]
    command += [part for file in subject.data for part in ("--data", str(DATA / file))]
    command += [part for option in (*options, *subject.options) for part in ("--set", option)]
    print(f"training {name}", file=sys.stderr, flush=True)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} could not be trained: {done.stderr.strip()[-500:]}")
    return out


def exported(matrix: Matrix, name: str, model: Path, scratch: Path, target: str, precision: str) -> Cell:
    """Export a model, and note what came of it."""
    cell, problem = attempt(model, scratch / "out", target, precision)
    if cell.verdict == "refused":
        who = f"{target}, {precision}" if problem.startswith(target) else f"{name}, {target}"
        if who not in matrix.refusals.setdefault(problem, []):
            matrix.refusals[problem].append(who)
    elif cell.verdict == "differs":
        matrix.differences.append(f"{name}, {target}, {precision}: {problem}")
    return cell


def attempt(model: Path, out: Path, target: str, precision: str) -> tuple[Cell, str]:
    """One export, removed when it has been judged; and what was said against it."""
    from shutil import rmtree

    from ciyuan.errors import UserError
    from ciyuan.export import FORMATS as KNOWN
    from ciyuan.export import export

    asked: dict[str, Any] = dict(PRECISIONS[precision])
    if target == "gguf" and "quantize" in asked:
        asked["quantize"] = "q8_0"
    said = out.with_name(f"{out.name}.refused.json")
    absent = importlib.util.find_spec(KNOWN[target].runtime) is None
    try:
        found = export(model, out, format=target, unproven=absent, **asked)
    except UserError as error:
        if said.exists():
            said.unlink()
            return Cell("differs", "**differs**"), error.found
        return Cell("refused", "–"), error.found
    rmtree(out)
    if absent:
        return Cell("absent", "runtime not installed"), ""
    return Cell("proven", words(found.report["compared"])), ""


def words(compared: Mapping[str, Any]) -> str:
    """What was compared, for one cell."""
    said = []
    predicted = [facts["next token"] for facts in compared.values() if "next token" in facts]
    numbers = [facts["relative"] for facts in compared.values() if "relative" in facts and "next token" not in facts]
    if predicted:
        worst = max(predicted, key=lambda facts: float(facts["mean divergence"]))
        same, of = (sum(facts[key] for facts in predicted) for key in ("same", "of"))
        said.append(f"{worst['mean divergence']:.1g} nats, {same}/{of} next")
    elif numbers:
        said.append(f"{max(numbers):.0e} σ".replace("e-0", "e-"))
    if text := compared.get("greedy text"):
        said.append(f"{text['equal']}/{text['of']} texts")
    return ", ".join(said)


def damaged(model: Path, scratch: Path, formats: list[str]) -> dict[str, dict[str, Cell]]:
    """What is said of exports in which one layer's queries have their rotary pairs in the other order."""
    from ciyuan.export import FORMATS as KNOWN
    from ciyuan.interop.gguf.architectures import Interleaved
    from ciyuan.interop.huggingface import Loaded

    found: dict[str, dict[str, Cell]] = {}
    for target in formats:
        whole = KNOWN[target]

        def write(folder: Path, loaded: Loaded, *options: Any, whole: Any = whole) -> Any:
            spoilt = copy.deepcopy(loaded.model)
            queries = spoilt.state_dict()["decoder.blocks.1.attention.sublayer.q.weight"]
            (other,) = Interleaved(loaded.model.config.n_heads).to_theirs([queries.clone()])
            queries.copy_(other)
            return whole.write(folder, replace(loaded, model=spoilt), *options)

        with patch.dict(KNOWN, {target: replace(whole, write=write)}):
            for precision in ("f32", "int8"):
                cell, problem = attempt(model, scratch / "damaged", target, precision)
                if cell.verdict == "differs":
                    cell = Cell("differs", f"refused: {problem.removeprefix('the export is refused: ')}")
                if cell.verdict != "refused":
                    found.setdefault(target, {})[precision] = cell
                print(f"damaged, {target}, {precision}: {cell.said}", file=sys.stderr, flush=True)
    return found


def report(
    matrix: Matrix, damage: Mapping[str, Mapping[str, Cell]], settings: argparse.Namespace, minutes: tuple[float, float]
) -> list[str]:
    rows: dict[tuple[str, str], list[str]] = {}
    for (name, target, _), cell in matrix.cells.items():
        rows.setdefault((name, target), []).append(cell.said)
    proven = sum(cell.verdict == "proven" for cell in matrix.cells.values())
    return [
        f"## Every preset in every format, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "",
        f"`benchmarks/export_matrix.py --steps {settings.steps}` on {os.cpu_count()} cores: {minutes[0]:.0f} minutes of training,",
        f"{minutes[1]:.0f} of exports; {proven} proven, {len(matrix.differences)} refused because they differ. {versions()}.",
        "σ: the largest difference in standard deviations (int8: root mean square, where no next token is predicted);",
        "–: refused by name, below.",
        "",
        f"| model | format | {' | '.join(PRECISIONS)} |",
        f"|---|---|{'---|' * len(PRECISIONS)}",
        *(f"| {name} | {target} | {' | '.join(row)} |" for (name, target), row in rows.items() if set(row) != {"–"}),
        "",
        "Refused by name:",
        "",
        *(f"- {', '.join(dict.fromkeys(who))}: {said}" for said, who in matrix.refusals.items()),
        *(["", "Refused because they differ:", "", *(f"- {each}" for each in matrix.differences)] if matrix.differences else []),
        "",
        f"Damaged on purpose ({DAMAGED}, one layer's queries in the other order of rotary pairs):",
        "",
        *(f"- {target}, {precision}: {cell.said}" for target, row in damage.items() for precision, cell in row.items()),
    ]


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("transformers", "llama-cpp-python", "ctranslate2", "onnxruntime"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
