"""NaN and infinity in losses and gradients, jumps of the loss, poisoned batches: none ever reaches a weight or a moment.

Under both policies, both optimisers, with averages, alone and on two ranks of which one is poisoned: all ranks decide alike.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ciyuan.batch import Batch, Loss
from ciyuan.errors import TrainingError
from ciyuan.objectives import Seq2Seq
from ciyuan.training import checkpoint, loop
from ciyuan.training.snapshot import Snapshot
from torture.harness import Case, Tally, broken, replaced
from torture.workload import END, PAD, START, Sitting, processes, settings, train_ranks, wait

POISONS = ("loss NaN", "loss infinite", "gradient NaN", "gradient infinite", "spike", "poisoned batch", "rate")
STEPS = 10


def run(tally: Tally) -> None:
    poisons = POISONS if tally.mutant is None else ("loss NaN", "gradient NaN", "gradient infinite")
    for case in tally.cases(tally.size(fast=9, full=140)):
        poison = poisons[case.number % len(poisons)]
        world = 2 if case.number % 7 == 3 and tally.mutant is None else 1
        policy = "stop" if case.number % 3 == 2 else "skip"
        at = sorted(case.draw.sample(range(1, STEPS), case.draw.randint(1, 3)))
        plan = Plan(case.folder / "run", poison, policy, tuple(at), case.draw.choice(["muon", "adamw"]), world)
        if world == 1:
            with broken(MUTANTS, tally.mutant):
                _sit(plan, 0)
        else:
            started: list[BaseProcess] = [processes.Process(target=_sit, args=(plan, rank)) for rank in range(world)]
            for process in started:
                process.start()
            codes = wait(started)
            if any(codes):
                tally.fail(case, f"{plan.poison} on one of two ranks: ended with {codes}")
                continue
        _judge(tally, case, plan)


class Plan:
    """One poisoned run. at: the steps, from 1, whose second micro-batch is poisoned, on the last rank alone."""

    def __init__(
        self, folder: Path, poison: str, policy: str, at: tuple[int, ...], optimizer: str, world: int
    ) -> None:  # fmt: skip
        self.folder, self.poison, self.policy, self.at = folder, poison, policy, at
        self.optimizer, self.world = optimizer, world


def _sit(plan: Plan, rank: int) -> None:
    """Train; what happened, and whether all is finite, goes to a file for each rank."""
    torch.set_num_threads(1)
    sitting = Sitting(plan.folder, str(plan.world), steps=STEPS)
    rate = {"lr": 1e38, "clip": None} if plan.poison == "rate" else {}
    wanted = settings(sitting).model_copy(
        update={"on_nonfinite": plan.policy, "optimizer": plan.optimizer, "checkpoint_every": 2, "warmup": 0, **rate}
    )
    seen: dict[str, Any] = {"error": None, "crash": None, "warnings": []}
    poisoned = _Poisoned(plan) if rank == plan.world - 1 else _Poisoned(None)
    keeper: list[Any] = []
    real = loop.Training.__init__

    def init(self: Any, *arguments: Any, **more: Any) -> None:
        real(self, *arguments, **more)
        keeper.append(self)

    with replaced(loop.Training, "__init__", init):
        try:
            train_ranks(sitting, rank, plan.world, objective=poisoned, settings=wanted)
        except TrainingError as error:
            seen["error"] = str(error)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is not what was promised)
            seen["crash"] = f"{type(error).__name__}: {error}"
    training = keeper[0]
    held = [*training.parameters.values(), *training.optimizer.state().values(), *training.average.state().values()]
    seen["finite"] = all(bool(tensor.isfinite().all()) for tensor in held if tensor.is_floating_point())
    seen["step"] = training.state.step
    seen["warnings"] = training.state.warnings
    plan.folder.with_name(f"rank{rank}.json").write_text(json.dumps(seen), encoding="utf-8")


class _Poisoned(Seq2Seq):
    def __init__(self, plan: Plan | None) -> None:
        super().__init__(pad_id=PAD, start_id=START, eos_id=END)
        self.plan, self.calls = plan, 0

    def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
        loss = super().loss(model, batch, progress=progress)
        if not model.training or self.plan is None:
            return loss
        self.calls += 1
        step, micro = (self.calls + 1) // 2, (self.calls - 1) % 2
        if step not in self.plan.at or micro == 0:
            return loss
        poison, weight = self.plan.poison, next(iter(model.parameters()))
        if poison == "loss NaN":
            return replace(loss, sum=loss.sum * math.nan)
        if poison == "loss infinite":
            return replace(loss, sum=loss.sum + math.inf)
        if poison == "gradient NaN":
            return replace(loss, sum=loss.sum + (weight * 0).square().sum().sqrt())  # 0 · ∞ on the way back
        if poison == "gradient infinite":
            nothing = (weight - weight.detach()).sum()
            return replace(loss, sum=loss.sum + nothing * 1e38 * 1e38)
        if poison == "poisoned batch":
            return replace(loss, sum=loss.sum * 1e30)  # whose squares are beyond float32
        if poison == "spike":
            return replace(loss, sum=loss.sum * 1e6)
        return loss


def _judge(tally: Tally, case: Case, plan: Plan) -> None:
    seen = [json.loads(plan.folder.with_name(f"rank{rank}.json").read_text()) for rank in range(plan.world)]
    what = f"{plan.poison} at {plan.at}, {plan.policy}, {plan.optimizer}, {plan.world} ranks"
    ends = {(one["error"] is None, one["step"]) for one in seen}
    finite = all(one["finite"] for one in seen) or (plan.poison == "rate" and seen[0]["error"] is not None)
    saved = checkpoint.Checkpoints(plan.folder / "checkpoints").latest(lambda damage: None)
    tensors = [] if saved is None else [tensor for group in saved.tensors.values() for tensor in group.values()]
    skipped = sum("update was skipped" in warning for warning in seen[0]["warnings"])
    poisonous = plan.poison not in ("spike", "rate")
    if any(one["crash"] for one in seen):
        tally.fail(case, f"{what}: {[one['crash'] for one in seen]}")
    elif not finite:
        tally.fail(case, f"{what}: NaN or infinity in what is learnt")
    elif not all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point()):
        tally.fail(case, f"{what}: NaN or infinity in a checkpoint")
    elif len(ends) != 1:
        tally.fail(case, f"{what}: the ranks ended differently: {ends}")
    elif poisonous and plan.policy == "skip" and (seen[0]["error"] is not None or skipped != len(plan.at)):
        tally.fail(case, f"{what}: {skipped} updates were skipped, {seen[0]['error']}")
    elif poisonous and plan.policy == "stop" and (seen[0]["error"] is None or seen[0]["step"] != plan.at[0] - 1):
        tally.fail(case, f"{what}: not stopped before step {plan.at[0]}, but at {seen[0]['step']}: {seen[0]['error']}")
    elif poisonous and "examples" not in (seen[0]["error"] or seen[0]["warnings"][0]):
        tally.fail(case, f"{what}: the examples are not named")


@contextlib.contextmanager
def _not_looked_at() -> Iterator[None]:
    """A loop that takes every number for finite."""

    class Trusting:
        def __getattr__(self, name: str) -> Any:
            return (lambda number: True) if name == "isfinite" else getattr(math, name)

    with replaced(loop, "math", Trusting()), replaced(Snapshot, "not_finite", lambda self: None):
        yield


MUTANTS = {"not looked at": _not_looked_at}
