"""SIGKILL, a full disk and a broken one at each write, sync and rename of a save: the checkpoint before it loads, always.

By the system's own calls: `strace` attaches to a process that is about to save, in the background or not, and has the N-th call
killed or refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ciyuan.errors import DiskError
from ciyuan.interop.tensors import write_tensors
from ciyuan.training import checkpoint
from torture.harness import Case, Tally, replaced
from torture.saves import is_right, newest, save, save_over
from torture.workload import processes

BEFORE, AFTER = 4, 5
CALLS = ("write", "fsync", "rename")
FAULTS = {"SIGKILL": "signal=SIGKILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}
SAVED, REFUSED, WORDLESS = 0, 3, 4
"""Exit codes of the process that saves: done; refused with a DiskError that names the folder; refused otherwise."""


def run(tally: Tally) -> None:
    tracer = shutil.which("strace")
    if tracer is None:
        tally.lacks("strace is not installed (Debian, Ubuntu: apt install strace)")
        return
    counts = _counts(tracer, tally)
    if counts is None:
        tally.lacks("strace may not attach to processes here")
        return
    trials = [(call, fault, n) for call in CALLS for fault in FAULTS for n in range(1, counts[call] + 1)]
    size = tally.size(12, 2 * len(trials))
    step = max(1, len(trials) // size)
    for case in tally.cases(size):
        background = case.number >= len(trials) if tally.full else case.number % 2 == 1
        _one(tally, case, tracer, *trials[(case.number * step) % len(trials)], background=background)


def _one(tally: Tally, case: Case, tracer: str, call: str, fault: str, n: int, *, background: bool) -> None:
    folder = case.folder / "checkpoints"
    save(folder, BEFORE, keep=1)
    injected = f"inject={call}:{FAULTS[fault]}:when={n}"
    code = _traced(tracer, case.folder, injected, tally.mutant, background=background)
    found, told = newest(folder)
    what = f"{fault} at {call} {n}{', in the background' if background else ''}"
    if found is None or not is_right(found):
        tally.fail(case, f"{what}: no whole checkpoint is left: {told}")
    elif code == SAVED and found.step != AFTER:
        tally.fail(case, f"{what}: the save returned, and is lost")
    elif code == WORDLESS:
        tally.fail(case, f"{what}: not said as a DiskError that names the folder")
    elif code not in (SAVED, REFUSED, -9):
        tally.fail(case, f"{what}: the process ended with {code}")


def _counts(tracer: str, tally: Tally) -> dict[str, int] | None:
    """How often a save makes each call; None where tracing is not allowed."""
    folder = tally.scratch / "counted"
    folder.mkdir()
    save(folder / "checkpoints", BEFORE, keep=1)
    if _traced(tracer, folder, None, None) != SAVED:
        return None
    seen = (folder / "strace.out").read_text()
    return {call: len(re.findall(rf"\b{call}\(", seen)) for call in CALLS}


def _traced(
    tracer: str, folder: Path, inject: str | None, mutant: str | None, *, background: bool = False
) -> int | None:
    """Save step AFTER in a process under strace. Returns its exit code."""
    go = folder / "go"
    process = processes.Process(target=_save_when_told, args=(folder, mutant, background))
    process.start()
    words = [tracer, "-f", "-p", str(process.pid), "-o", str(folder / "strace.out"), "-e", f"trace={','.join(CALLS)}"]
    watching = subprocess.Popen([*words, *(["-e", inject] if inject else [])], stderr=subprocess.PIPE, text=True)
    assert watching.stderr is not None
    if "attached" not in (watching.stderr.readline() or ""):
        watching.wait()
        process.kill()
        process.join()
        return None
    go.touch()
    process.join(timeout=60)
    if process.is_alive():
        process.kill()
        process.join()
    watching.wait(timeout=60)
    watching.stderr.close()
    return process.exitcode


def _save_when_told(folder: Path, mutant: str | None, background: bool) -> None:
    while not (folder / "go").exists():
        time.sleep(0.002)
    with MUTANTS[mutant]() if mutant is not None else contextlib.nullcontext():
        try:
            save_over(folder / "checkpoints", AFTER, keep=1, background=background)
        except DiskError as error:
            os._exit(REFUSED if str(folder / "checkpoints") in str(error) else WORDLESS)
        except BaseException:  # noqa: BLE001 (whatever it is, it is not what was promised)
            os._exit(WORDLESS)
    os._exit(SAVED)


@contextlib.contextmanager
def _in_place() -> Iterator[None]:
    """A save that overwrites the files of the one before."""

    def overwrite(self: checkpoint.Checkpoints, step: int, tensors: Any, text: str) -> Path:
        folder = self.folders()[-1]
        for name, group in tensors.items():
            with (folder / f"{name}.safetensors").open("wb") as file:
                write_tensors(file, group)
        return folder

    with replaced(checkpoint.Checkpoints, "_write", overwrite):
        yield


MUTANTS = {"in place": _in_place}
