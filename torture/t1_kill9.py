"""SIGKILL at random moments and inside saves: the resumed run ends in the bits of the run left alone.

Dropout on, two batches accumulated, shuffled, averaged, on one process and on two ranks; by the loop and by all of `ciyuan train`.
Every other case is aimed inside a save, and every other one saves in the background, which the run left alone does not. One case
in ten is killed twenty times in one run (in the fast tier: one case, five times).
Compared: weights, optimiser, averages, generators, numbers, loss log, ledger, model folder.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ciyuan.training import checkpoint
from ciyuan.training.checkpoint import Checkpoints
from ciyuan.training.loop import Training
from ciyuan.training.monitor import RunLog
from torture.harness import Case, Tally, replaced
from torture.workload import ABANDONED, Sitting, difference, launch, processes, remains, wait

FORMS = ("1", "recipe", "2")


def run(tally: Tally) -> None:
    straight: dict[str, Straight] = {}
    for case in tally.cases(tally.size(fast=4, full=200) if tally.mutant is None else 12):
        form = FORMS[case.number % 3] if tally.mutant is None else "1"
        if form not in straight:
            straight[form] = _left_alone(tally.scratch / f"straight-{form}", form)
        often = (20 if tally.full else 5) if case.number % 10 == 3 else 1
        _one(tally, case, form, often, straight[form])


@dataclass(frozen=True)
class Straight:
    """A run left alone: what remains of it, how long it took, and how many disk calls its saves made."""

    remains: dict[str, Any]
    seconds: float
    calls: int


def _left_alone(folder: Path, form: str) -> Straight:
    folder.mkdir()
    warm = processes.Process(
        target=abs, args=(0,)
    )  # so that the time is that of the run, not of the first process's imports
    warm.start()
    warm.join()
    began = time.monotonic()
    codes = wait(launch(Sitting(folder / "run", form), MUTANTS))
    assert not any(codes), f"the run left alone ended with {codes}: {folder}"
    return Straight(remains(folder / "run"), time.monotonic() - began, int((folder / "run.calls").read_text()))


def _one(tally: Tally, case: Case, form: str, often: int, wanted: Straight) -> None:
    draw, kills, haste = case.draw, 0, 1.0
    aimed = case.number // 3 % 2 == 0
    background = (case.number + case.number // 6) % 2 == 1  # so that each form, aimed or not, has both
    for _ in range(60 + often):  # sittings
        sure = kills >= often
        reach = wanted.calls if often == 1 else wanted.calls // 8  # few get to the end of a save
        fatal = draw.randrange(1, reach) if aimed and not sure else 0
        sitting = Sitting(case.folder / "run", form, fatal=fatal, background=background, mutant=tally.mutant)
        started = launch(sitting, MUTANTS)
        if not sure and not aimed:
            _kill_somewhere(started, draw, draw.random() * haste * wanted.seconds / (1 if often == 1 else 6))
        codes = wait(started)
        if not any(codes) and kills == 0:  # it was over before the kill came: that proves nothing
            shutil.rmtree(sitting.folder)
            haste *= 0.7
            continue
        if not any(codes):
            break
        if any(code not in (0, -9, ABANDONED) for code in codes):
            said = sitting.folder.with_name("run.said")
            tally.fail(case, f"{form}: ended with {codes}: {said.read_text() if said.exists() else ''}")
            return
        kills += 1
    else:
        tally.fail(case, f"{form}: never came to its end")
        return
    tally.see(f"most kills in one run, {form}", kills)
    tally.worst["kills in all"] = tally.worst.get("kills in all", 0) + kills
    if (found := difference(wanted.remains, remains(case.folder / "run"))) is not None:
        how = ", in the background" if background else ""
        tally.fail(case, f"{form}{how}, {kills} kills: another {found}")


def _kill_somewhere(started: list[Any], draw: random.Random, delay: float) -> None:
    """Of several ranks one, or all at once."""
    end = time.monotonic() + delay
    while time.monotonic() < end and all(process.is_alive() for process in started):
        time.sleep(0.001)
    chosen = started if draw.random() < 0.5 else [draw.choice(started)]
    for process in chosen:
        if process.is_alive():
            os.kill(process.pid, 9)


# --- Mutants -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _generators_lost() -> Iterator[None]:
    real = Training._restore

    def restore(self: Training, found: Any) -> None:
        real(self, found)
        torch.manual_seed(1234)

    with replaced(Training, "_restore", restore):
        yield


@contextlib.contextmanager
def _log_not_cut() -> Iterator[None]:
    with replaced(RunLog, "cut", lambda self, position, step: True):
        yield


@contextlib.contextmanager
def _optimizer_forgotten() -> Iterator[None]:
    real = Training._restore

    def restore(self: Training, found: Any) -> None:
        optimizer = self.optimizer
        with replaced(type(optimizer), "load", lambda self, state: None):
            real(self, found)

    with replaced(Training, "_restore", restore):
        yield


@contextlib.contextmanager
def _not_copied() -> Iterator[None]:
    """In the background, of tensors that training goes on to change."""

    def save(self: Checkpoints, step: int, tensors: Any, numbers: Any) -> None:
        self.wait()

        def late() -> Path:
            time.sleep(0.03)
            return self._write(step, tensors, checkpoint._as_text(step, numbers))

        self._background = ThreadPoolExecutor(1).submit(late)

    with replaced(Checkpoints, "save_in_background", save):
        yield


MUTANTS = {
    "generators lost": _generators_lost,
    "log not cut back": _log_not_cut,
    "optimiser forgotten": _optimizer_forgotten,
    "not copied before it is saved in the background": _not_copied,
}
