"""Checkpoints of every released version, kept in `stored`: each is read to the bit, and a run goes on from it.

`python -m torture.t12_compat` stores one of the version at hand; do it at each release.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import ciyuan
from ciyuan.errors import CiyuanError
from ciyuan.training import checkpoint
from torture.harness import Case, Tally, broken, replaced
from torture.workload import Sitting, build, train_ranks

STORED = Path(__file__).resolve().parent / "stored"
STEPS, SAVED_AT = 6, 3


def run(tally: Tally) -> None:
    versions = sorted(path.name for path in STORED.iterdir())
    with broken(MUTANTS, tally.mutant):
        for case, version in zip(tally.cases(len(versions)), versions):
            _one(tally, case, version)


def _one(tally: Tally, case: Case, version: str) -> None:
    kept = STORED / version
    shutil.copytree(kept / "run", case.folder / "run")
    wanted = json.loads((kept / "tensors.json").read_text(encoding="utf-8"))
    try:
        found = checkpoint.Checkpoints(case.folder / "run" / "checkpoints").latest(lambda damage: None)
        if found is None or hashes(found) != wanted:
            tally.fail(case, f"{version}: other tensors than were saved")
            return
        (case.folder / "run" / ".lock").touch()
        result = train_ranks(Sitting(case.folder / "run", "1", steps=STEPS), 0, 1)
    except CiyuanError as error:
        tally.fail(case, f"{version}: {error}")
        return
    if result.steps != STEPS or result.already_finished:
        tally.fail(case, f"{version}: the run did not go on from step {SAVED_AT}")


def hashes(found: checkpoint.Checkpoint) -> dict[str, str]:
    return {
        f"{group}/{name}": hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for group, tensors in found.tensors.items()
        for name, tensor in tensors.items()
    }


def store() -> None:
    """A run of this version, cut off at its first checkpoint."""
    target = STORED / ciyuan.__version__
    train_ranks(Sitting(target / "run", "1", steps=STEPS), 0, 1, model=build())
    for path in (target / "run").iterdir():
        if path.name not in ("checkpoints", "metrics.jsonl", "ledger.bin"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in checkpoint.Checkpoints(target / "run" / "checkpoints").folders():
        if folder.name != f"step-{SAVED_AT}":
            shutil.rmtree(folder)
    found = checkpoint.load(target / "run" / "checkpoints" / f"step-{SAVED_AT}")
    (target / "tensors.json").write_text(json.dumps(hashes(found), indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _kinds_mixed_up() -> Iterator[None]:
    """A reader that takes 32-bit floats for something else."""
    real = checkpoint.load

    def load(folder: Path) -> checkpoint.Checkpoint:
        found = real(folder)
        found.tensors["weights"] = {name: tensor.half() for name, tensor in found.tensors["weights"].items()}
        return found

    with replaced(checkpoint, "load", load):
        yield


MUTANTS = {"kinds mixed up": _kinds_mixed_up}

if __name__ == "__main__":
    store()
