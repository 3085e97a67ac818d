"""Small texts of every shape that a recipe learns from."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.tiny import WORDS, write_pairs


def write_text(path: Path, n: int = 300, *, seed: int = 0) -> Path:
    """n lines in documents of five, English and Chinese."""
    draw = random.Random(seed)
    lines = []
    for i in range(n):
        words = draw.choices(list(WORDS), k=draw.randint(4, 12))
        lines.append(f"{i} " + (" ".join(words) if i % 2 else "".join(WORDS[word] for word in words)))
        if i % 5 == 4:
            lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_for(task: str, folder: Path) -> tuple[Path, list[str]]:
    """Data for a task, and the settings that name its columns."""
    if task == "translate":
        return write_pairs(folder / "pairs.tsv"), ["data.source=en", "data.target=zh"]
    if task in ("causal-lm", "masked-lm", "denoise"):
        return write_text(folder / "text.txt"), []
    path = folder / f"{task}.jsonl"
    rows = []
    for i, line in enumerate(line for line in write_text(folder / "text.txt", 120).read_text().split("\n") if line):
        if task == "classify":
            rows.append({"text": line, "label": "zh" if i % 2 else "en"})
        elif task == "answer":
            rows.append({"question": f"what is line {i}?", "passage": f"{line} 号", "answer": line.split(" ")[0]})
        else:
            rows.append({"messages": [{"role": "user", "content": line}, {"role": "assistant", "content": line[::-1]}]})
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path, []
