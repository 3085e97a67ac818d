"""SIGTERM and SIGINT in every phase: a checkpoint within a step, exit 143, and the same bits at the end once it is resumed.

Alone and on two ranks of which one is signalled; half of the runs save in the background; a second signal leaves at once. With
--full also under torchrun, where all must be over before it would kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciyuan.data import prepare
from ciyuan.errors import Stopped
from ciyuan.objectives import Seq2Seq
from ciyuan.recipe import running
from ciyuan.training import checkpoint, loop
from torture.harness import Case, Tally, replaced
from torture.workload import Sitting, difference, processes, remains, sit, wait

PHASES = ("preparation", "step", "accumulation", "evaluation", "save", "export", "second")
"""Where the signal comes: while the data is prepared, in a step's first or second batch, … and a second one after the first."""
ONCE = ("preparation", "export", "evaluation")
"""What a run may do once only: how often a new best model is written, the scores say."""
TORCHRUN_SECONDS = 25.0
"""torchrun sends SIGKILL thirty seconds after SIGTERM."""
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Plan:
    """When the process signals itself: at the `after`-th time that it enters the phase."""

    phase: str
    number: int
    after: int
    rank: int = 0


def run(tally: Tally) -> None:
    straight: dict[str, dict[str, Any]] = {}
    phases = PHASES if tally.mutant is None else ("step",)
    n = tally.size(fast=len(phases), full=84)
    for case in tally.cases(n):
        phase = phases[case.number % len(phases)]
        form = ("1", "2", "recipe")[case.number // len(phases) % 3]
        if phase in ("preparation", "export") or (phase == "evaluation" and form == "2"):
            form = "recipe"
        if form not in straight:
            folder = tally.scratch / f"straight-{form}"
            folder.mkdir()
            codes = wait(_launch(Sitting(folder / "run", form), None, None))
            assert not any(codes), codes
            straight[form] = remains(folder / "run")
        number = case.draw.choice([signal.SIGTERM, signal.SIGINT])
        rank = int(form == "2" and phase != "save")  # it is rank 0 that saves
        plan = Plan(phase, number, case.draw.randint(1, 1 if phase in ONCE else 3), rank)
        sitting = Sitting(case.folder / "run", form, background=case.number % 2 == 0, mutant=tally.mutant)
        _one(tally, case, sitting, plan, straight[form])
    if tally.mutant is None:
        for case in tally.cases(tally.size(fast=0, full=6), start=n):
            _under_torchrun(tally, case)


def _one(tally: Tally, case: Case, sitting: Sitting, plan: Plan, wanted: dict[str, Any]) -> None:
    what = f"{signal.Signals(plan.number).name} in {plan.phase}, {sitting.form}{', background' if sitting.background else ''}"
    began = time.monotonic()
    codes = wait(_launch(sitting, plan, tally.mutant))
    tally.see("seconds to the end", time.monotonic() - began)
    if plan.phase == "second":
        if codes[-1] != -plan.number:
            tally.fail(case, f"{what}: a second signal did not end it at once: {codes}")
            return
    elif plan.phase == "preparation":
        if codes[0] not in (-plan.number, 1, 130, 143):
            tally.fail(case, f"{what}: ended with {codes}")
            return
    else:
        if any(code != Stopped.exit_code for code in codes):
            tally.fail(case, f"{what}: ended with {codes} instead of {Stopped.exit_code}")
            return
        noted = sitting.folder.with_name("signalled.json")
        at = json.loads(noted.read_text())["step"]
        found = checkpoint.Checkpoints(sitting.folder / "checkpoints").latest(lambda damage: None)
        if found is None or not at <= found.step <= at + 1:
            tally.fail(case, f"{what}: signalled at step {at}, the checkpoint is of {found and found.step}")
            return
    codes = wait(_launch(sitting, None, tally.mutant))
    if any(codes):
        tally.fail(case, f"{what}: going on ended with {codes}")
    elif (other := difference(wanted, remains(sitting.folder))) is not None:
        tally.fail(case, f"{what}: another {other}")


def _launch(sitting: Sitting, plan: Plan | None, mutant: str | None) -> list[Any]:
    ranks = 1 if sitting.form == "recipe" else int(sitting.form)
    sitting.folder.with_name("run.meet").unlink(missing_ok=True)
    started = [processes.Process(target=_sit, args=(sitting, plan, rank)) for rank in range(ranks)]
    for process in started:
        process.start()
    return started


def _sit(sitting: Sitting, plan: Plan | None, rank: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what runs in its background ignore it
    with contextlib.ExitStack() as stack:
        if plan is not None and rank == plan.rank:
            stack.enter_context(_signalling(sitting, plan))
        sit(sitting, MUTANTS, rank)


@contextlib.contextmanager
def _signalling(sitting: Sitting, plan: Plan) -> Iterator[None]:
    """The process signals itself when it enters the phase."""
    entered = 0
    trained: list[loop.Training] = []

    def now() -> None:
        nonlocal entered
        entered += 1
        if entered != plan.after:
            return
        step = trained[0].state.step if trained else 0
        sitting.folder.with_name("signalled.json").write_text(json.dumps({"step": step}))
        os.kill(os.getpid(), plan.number)
        if plan.phase == "second":
            os.kill(os.getpid(), plan.number)

    def first(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            now()
            return real(*arguments, **more)

        return call

    def inside(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: loop.Training, *arguments: Any, **more: Any) -> Any:
            with replaced(os, "fsync", first(os.fsync)):
                return real(self, *arguments, **more)

        return call

    def kept(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: loop.Training, *arguments: Any, **more: Any) -> None:
            real(self, *arguments, **more)
            trained.append(self)
            if plan.phase == "evaluation":
                self.evaluate = first(self.evaluate)  # type: ignore[arg-type]
            if plan.phase == "export":
                self.save_best = first(self.save_best)  # type: ignore[arg-type]

        return call

    calls = 0

    def loss(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, model: Any, batch: Any, **more: Any) -> Any:
            nonlocal calls
            if model.training:
                calls += 1
                if calls % 2 == (plan.phase == "step" or plan.phase == "second"):
                    now()
            return real(self, model, batch, **more)

        return call

    places: list[tuple[Any, str, Any]] = [(loop.Training, "__init__", kept(loop.Training.__init__))]
    if plan.phase == "preparation":
        places.append((running, "prepare", first(prepare)))
    if plan.phase in ("step", "accumulation", "second"):
        places.append((Seq2Seq, "loss", loss(Seq2Seq.loss)))
    if plan.phase == "save":
        places.append((checkpoint.Checkpoints, "_write", inside(checkpoint.Checkpoints._write)))
    with contextlib.ExitStack() as stack:
        for owner, name, value in places:
            stack.enter_context(replaced(owner, name, value))
        yield


# --- Under torchrun ----------------------------------------------------------------------------------------------------


def _under_torchrun(tally: Tally, case: Case) -> None:
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "torture.t6_signals",
        str(case.folder / "run"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(words, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, end = case.folder / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(case.draw.choice([signal.SIGTERM, signal.SIGINT]))
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    taken = time.monotonic() - began
    tally.see("seconds under torchrun", taken)
    found = checkpoint.Checkpoints(case.folder / "run" / "checkpoints").latest(lambda damage: None)
    if taken >= TORCHRUN_SECONDS:
        tally.fail(case, f"under torchrun it took {taken:.1f} s")
    elif found is None or found.numbers["state"]["finished"] is not None:
        tally.fail(case, "under torchrun: no checkpoint of an unfinished run")


def _torchrun_rank(folder: str) -> None:
    import torch
    import torch.distributed as dist

    from torture.workload import train_ranks

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    sitting = Sitting(Path(folder), "1", steps=100_000)
    try:
        train_ranks(sitting, dist.get_rank(), dist.get_world_size(), joined=True)
    except Stopped as stopped:
        sys.exit(stopped.exit_code)


# --- Mutants -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stops_without_saving() -> Iterator[None]:
    real = loop.Training._save

    def save(self: loop.Training) -> None:
        if self.signals.received is None:
            real(self)

    with replaced(loop.Training, "_save", save):
        yield


MUTANTS = {"stops without saving": _stops_without_saving}

if __name__ == "__main__":
    _torchrun_rank(sys.argv[1])
