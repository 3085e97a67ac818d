"""A corpus larger than the memory, and a line larger than any: prepared within a ceiling, or refused in words.

The real command prepares in a process of its own, whose memory is watched; the corpus is of pairs, each different.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from torture.harness import Case, Tally

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1 << 20
CEILING = 1024
"""Megabytes of memory that nothing else stands behind: not counted are pages of files, which the system takes back when it must."""


def run(tally: Tally) -> None:
    ceiling = CEILING if tally.mutant is None else 20
    sizes = {"corpus": 5120, "line": 2048} if tally.full and tally.mutant is None else {"corpus": 0.1}
    for case, (name, size) in zip(tally.cases(len(sizes)), sizes.items()):
        if shutil.disk_usage(tally.disk).free < 3 * size * MEGABYTE:
            tally.lacks(f"{3 * size:,.0f} MB of disk for a {name} of {size:,.0f} MB")
            continue
        with tempfile.TemporaryDirectory(prefix="ciyuan-torture-T11-", dir=tally.disk) as folder:
            path = Path(folder) / f"{name}.tsv"
            write_corpus(path, int(size * MEGABYTE)) if name == "corpus" else write_line(path, int(size * MEGABYTE))
            _prepare(tally, case, path, ceiling)


def _prepare(tally: Tally, case: Case, path: Path, ceiling: int) -> None:
    words = [
        sys.executable, "-m", "ciyuan", "train", "translate", "--data", str(path), "--out", str(path.parent / "run"), "--dev", "3",
    ]  # fmt: skip
    for option in (
        "data.source=en", "data.target=zh", "model.d_model=32", "model.n_layers=1", "model.n_decoder_layers=1", "model.n_heads=2",
        "model.d_ff=32", "training.minutes=null", "training.steps=1", "training.threads=1", "training.warm_start=false",
        "training.guidance=0",
        "tokenizer.max_memory_mb=256",
    ):  # fmt: skip
        words += ["--set", option]
    environment = os.environ | {"CIYUAN_CACHE": str(path.parent / "cache"), "OMP_NUM_THREADS": "1"}
    with (case.folder / "said").open("w") as said:
        process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)
        highest = 0.0
        while process.poll() is None:
            highest = max(highest, anonymous(process.pid))
            if highest > ceiling:
                process.kill()
            time.sleep(0.05)
    tally.see(f"megabytes, {path.stem}", highest)
    last = " ".join((case.folder / "said").read_text().splitlines()[-3:])
    if highest > ceiling:
        tally.fail(case, f"{path.name} took more than {ceiling:,} MB")
    elif process.returncode not in (0, 2) or "Traceback" in last:
        tally.fail(case, f"{path.name}: ended with {process.returncode}: {last}")


def anonymous(process: int) -> float:
    """Megabytes of a process's memory that no file backs; 0 once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) / 1024 if found else 0.0


def write_corpus(path: Path, size: int) -> None:
    draw, written = random.Random(5), 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            lines = "".join(
                f"{' '.join(f'w{draw.randrange(90_000)}' for _ in range(12))}\t"
                f"{''.join(chr(0x4E00 + draw.randrange(4000)) for _ in range(18))}\n"
                for _ in range(1000)
            )
            file.write(lines)
            written += len(lines.encode())


def write_line(path: Path, size: int) -> None:
    """A few lines, and one that is as long as a file."""
    write_corpus(path, 200_000)
    with path.open("a", encoding="utf-8") as file:
        for _ in range(max(1, size // MEGABYTE)):
            file.write("endless " * (min(size, MEGABYTE) // 8))
        file.write("\t无尽\n")


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    """No mutant of the product, but a ceiling that no program with torch in it stays under: the watch must notice."""
    yield


MUTANTS = {"no room": _no_room}
