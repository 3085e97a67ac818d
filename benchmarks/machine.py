"""The machine that figures hold for: whether it is quiet, what else used it meanwhile, and how a program is started on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SLACK = 0.1
"""The share of the processor that others may use before a run counts as disturbed."""

Row = dict[str, Any]
"""A finished run, as it is stored: what was asked, what came of it, and how the machine was."""


def call(command: Sequence[str], *, log: Path, threads: int) -> str:
    """A command's stdout; its stderr goes to `log`, of which the end is shown should it fail."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = (
        {"GOMP_SPINCOUNT": "2000"}
        | os.environ
        | {  # as ciyuan does, so that none has more of a busy machine
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    with log.open("w", encoding="utf-8") as stderr:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False
        )
    if done.returncode != 0:
        end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        sys.exit(f"{end}\n`{' '.join(command)}` failed with exit code {done.returncode}; all it said: {log}")
    return done.stdout


def heading(machine: Row, threads: int) -> str:
    """A line that says what the figures below it hold for."""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {threads} threads, Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}"
    )


def disturbed(row: Row) -> str:
    share = row["machine"].get("others_share")
    return f" (disturbed: others took {share:.0%})" if share is not None and share > SLACK else ""


def publish(lines: Sequence[str], *, write: bool) -> None:
    """Print a section, and with `write` append it to RESULTS.md."""
    print("\n".join(lines))
    if write:
        with (ROOT / "benchmarks/RESULTS.md").open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))


def fingerprint(files: Sequence[Path], *words: str) -> str:
    """What a run depends on, as a short hash."""
    digest = hashlib.sha256(" ".join(words).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def stored_parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def wait_for_quiet(noisy: bool, patience: float = 300.0) -> Row:
    """How the machine is before a run. Waits, and in the end gives up, while others use more of it than SLACK."""
    began = time.monotonic()
    while True:
        before, wall = busy_seconds(), time.monotonic()
        time.sleep(3.0)
        after = busy_seconds()
        cores = os.cpu_count() or 1
        share = None
        if before is not None and after is not None:
            share = (after - before) / (time.monotonic() - wall) / cores
        if share is None or share <= SLACK or noisy:
            break
        if time.monotonic() - began > patience:
            sys.exit(
                f"others have used {share:.0%} of the processor for {patience:.0f} s: no time to measure anything\n"
                "stop them, or say --noisy; the runs that are finished are kept"
            )
        print(f"waiting: others use {share:.0%} of the processor", file=sys.stderr, flush=True)
    return {
        "processor": processor(),
        "cores": cores,
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "busy_before": None if share is None else round(share, 3),
    }


class Watch:
    """What others took of the processor while we and our child processes ran."""

    def __init__(self) -> None:
        self.began, self.busy, self.ours = time.monotonic(), busy_seconds(), own_seconds()

    def read(self) -> Row:
        wall, busy = time.monotonic() - self.began, busy_seconds()
        if self.busy is None or busy is None:
            return {"others_share": None}
        others = (busy - self.busy) - (own_seconds() - self.ours)
        return {"others_share": round(max(0.0, others) / wall / (os.cpu_count() or 1), 3)}


def busy_seconds() -> float | None:
    """Processor seconds that this machine has spent on anything, or lost to its host, since it started. Linux only."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, first.split()[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return float(ticks / os.sysconf("SC_CLK_TCK"))


def own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
