"""`kill -9` ten times in one run of the demo's recipe: the same model.safetensors, byte for byte, as the run left alone.

The command that a user types, `ciyuan train examples/demo.yaml`, with a number of steps instead of minutes; killed at random
moments, the first of which may lie in its preparation, and gone on with by --resume. Compared is all that T1 compares. Each kill is
told on stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ciyuan.training.checkpoint import Checkpoints
from torture import t1_kill9
from torture.harness import Case, Tally
from torture.workload import difference, remains

ROOT = Path(__file__).resolve().parent.parent
PLAN = {
    "training.minutes": "null", "training.threads": 1, "training.checkpoint_every": 4, "training.evaluate_every": 20,
    "training.log_every": 1,
}  # fmt: skip
SECONDS = 1200.0
"""After which a sitting is given up."""
STARTING = 15.0
"""Seconds of a sitting, about, before its first step: imports, preparation."""


def run(tally: Tally) -> None:
    steps, kills = (40, 10) if tally.full and tally.mutant is None else (12, 2)
    for case in tally.cases(1):
        with tempfile.TemporaryDirectory(prefix="ciyuan-torture-T1-DEMO-", dir=tally.disk) as scratch:
            began = time.monotonic()
            straight, cut = Sittings(Path(scratch) / "straight", steps), Sittings(Path(scratch) / "cut", steps)
            if (code := straight.start().wait(SECONDS)) != 0:
                tally.fail(case, f"the run left alone ended with {code}: {straight.said()}")
                continue
            tally.see("seconds left alone", time.monotonic() - began)
            _cut(tally, case, straight, cut, sorted(case.draw.choices(range(steps - 1), k=kills)))


def _cut(tally: Tally, case: Case, straight: Sittings, cut: Sittings, places: list[int]) -> None:
    """Kill at each of these steps, then go on to the end."""
    step_seconds = straight.elapsed() / straight.of_steps
    for number, step in enumerate(places, start=1):
        process = cut.start(resume=number > 1, mutant=tally.mutant)
        if not _wait(process, cut, step, case.draw.random() * (step_seconds if step else STARTING)):
            tally.fail(case, f"ended by itself with {process.wait()}: {cut.said()}")
            return
        process.kill()
        process.wait()
        if tally.mutant is None:
            print(f"kill {number:2}: {cut.state()}", file=sys.stderr, flush=True)
    tally.see("kills in one run", len(places))
    if (code := cut.start(resume=True, mutant=tally.mutant).wait(SECONDS)) != 0:
        tally.fail(case, f"going on ended with {code}: {cut.said()}")
        return
    wanted, found = remains(straight.run), remains(cut.run)
    tally.see("bytes of model.safetensors", len(found["model.safetensors"]))
    if wanted["model.safetensors"] != found["model.safetensors"]:
        tally.fail(case, "another model.safetensors")
    elif (other := difference(wanted, found)) is not None:
        tally.fail(case, f"the same model.safetensors, another {other}")


def _wait(process: subprocess.Popen[bytes], cut: Sittings, step: int, seconds: float) -> bool:
    """Until so long after this step. Returns False where the process was over before."""
    end = time.monotonic() + SECONDS
    while cut.steps() < step and time.monotonic() < end:
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


@dataclass(frozen=True)
class Sittings:
    """One run, in as many processes as it takes."""

    folder: Path
    of_steps: int

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start(self, *, resume: bool = False, mutant: str | None = None) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        words = [sys.executable, "-m", *(["ciyuan"] if mutant is None else ["torture.t1_demo", mutant])]
        words += ["train", "examples/demo.yaml", "--out", str(self.run), *(["--resume"] if resume else [])]
        for option in (f"training.steps={self.of_steps}", *(f"{name}={value}" for name, value in PLAN.items())):
            words += ["--set", option]
        environment = os.environ | {"CIYUAN_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        with (self.folder / "said").open("wb") as said:
            return subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said)

    def steps(self) -> int:
        """How many the log tells of."""
        log = self.run / "metrics.jsonl"
        return log.read_bytes().count(b'"lr"') if log.exists() else 0

    def elapsed(self) -> float:
        """Seconds of training, by the last line of the log."""
        last = (self.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        return float(json.loads(last)["elapsed"])

    def said(self) -> str:
        return " ".join((self.folder / "said").read_text(encoding="utf-8", errors="replace").splitlines()[-3:])

    def state(self) -> str:
        """What a kill has left."""
        kept = Checkpoints(self.run / "checkpoints")
        names = [path.name for path in kept.folders()]
        inside = any((self.run / "checkpoints").glob("tmp-*"))
        return (
            f"step {self.steps()} of {self.of_steps}{', inside a save' if inside else ''}; "
            f"goes on from {names[-1] if names else 'the beginning'}"
        )


# --- Mutant ------------------------------------------------------------------------------------------------------------

MUTANTS = {"generators lost": t1_kill9.MUTANTS["generators lost"]}


def _sit(mutant: str, arguments: list[str]) -> int:
    from ciyuan.cli.main import main

    with MUTANTS[mutant]():
        return main(arguments)


if __name__ == "__main__":
    sys.exit(_sit(sys.argv[1], sys.argv[2:]))
