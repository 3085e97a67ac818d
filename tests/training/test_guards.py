"""What a run does about numbers that are not finite, scores that cannot be computed, and threads that die."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.batch import Batch, Loss
from ciyuan.errors import CiyuanError, DiskError, TrainingError
from ciyuan.training import RunLog
from ciyuan.training.checkpoint import Checkpoints
from tests.training.test_loop import Poison
from tests.training.toy import NextToken, dev_loss, run_toy, settings


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)


def saved(folder: Path) -> Any:
    return Checkpoints(folder / "checkpoints").latest(pytest.fail)


def test_stop_leaves_the_weights_and_names_the_examples_and_the_way_on(tmp_path: Path) -> None:
    wanted = settings(steps=20, on_nonfinite="stop", checkpoint_every=2)
    with pytest.raises(TrainingError, match=r"(?s)step 7: the loss is not finite \(examples .*on_nonfinite=skip"):
        run_toy(tmp_path, wanted, objective=Poison(7))
    assert saved(tmp_path).step == 6
    on = settings(steps=20, on_nonfinite="skip", checkpoint_every=2)
    _, result = run_toy(tmp_path, on, resume=True, objective=Poison(1))  # the first that is left
    assert result.steps == 20
    assert [warning.split(":")[0] for warning in result.warnings] == ["step 7"]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_an_update_that_breaks_the_weights_is_never_saved(tmp_path: Path, optimizer: str) -> None:
    wanted = settings(steps=9, lr=1e38, clip=None, optimizer=optimizer, checkpoint_every=1, warmup=0)
    with pytest.raises(TrainingError, match=r"lower training\.lr"):
        run_toy(tmp_path, wanted, evaluate=None)
    found = saved(tmp_path)
    tensors = [] if found is None else [tensor for group in found.tensors.values() for tensor in group.values()]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def test_an_evaluation_that_fails_later_is_warned_of_and_training_goes_on(tmp_path: Path) -> None:
    calls: list[int] = []

    def evaluate(model: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("no word in common")
        return dev_loss(model)

    _, result = run_toy(tmp_path, settings(steps=20, evaluate_every=5), evaluate=evaluate)
    assert result.steps == 20
    assert result.warnings == ("step 10: no score: ZeroDivisionError: no word in common",)
    assert len(calls) == 4


def test_an_evaluation_that_never_worked_ends_the_run_at_the_first(tmp_path: Path) -> None:
    def evaluate(model: Any) -> dict[str, float]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_toy(tmp_path, settings(steps=20, evaluate_every=5), evaluate=evaluate)


def test_a_score_that_is_no_longer_given_counts_as_none(tmp_path: Path) -> None:
    scores = [{"chrf": 3.0}, {"other": 1.0}, {"chrf": 2.0}, {"chrf": 4.0}]
    _, result = run_toy(tmp_path, settings(steps=4, evaluate_every=1), evaluate=lambda model: scores.pop(0))
    assert (result.best_step, result.best) == (4, {"chrf": 4.0})
    assert ["chrf is nan" in warning for warning in result.warnings] == [True]


def test_a_run_without_any_score_keeps_its_last_model_and_says_so(tmp_path: Path) -> None:
    kept: list[torch.Tensor] = []
    model, result = run_toy(
        tmp_path, settings(steps=6, evaluate_every=3), evaluate=lambda model: {"chrf": math.nan},
        save_best=lambda model: kept.append(model.head.weight.detach().clone()),
    )  # fmt: skip
    assert len(kept) == 1
    assert torch.equal(kept[0], model.head.weight)
    assert result.best_step == 6
    assert "no evaluation gave a score" in result.warnings[-1]


def test_a_jump_of_the_loss_names_its_examples(tmp_path: Path) -> None:
    class Jump(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            loss = super().loss(model, batch)
            self.calls += 1
            return Loss(loss.sum * 9, loss.count, loss.metrics) if self.calls == 80 else loss

    _, result = run_toy(tmp_path, settings(steps=90), objective=Jump(), evaluate=None)
    assert [("(examples " in warning, warning.startswith("step 80: ")) for warning in result.warnings] == [(True, True)]


def test_a_thread_of_batches_that_dies_ends_the_run_with_a_word(tmp_path: Path) -> None:
    def examples(numbers: Any) -> Any:
        raise SystemExit(3)

    with pytest.raises((CiyuanError, SystemExit)):
        run_toy(tmp_path, settings(), examples=examples)


def test_under_minutes_the_checkpoint_that_knows_the_best_is_older_than_the_model(tmp_path: Path) -> None:
    ages: list[tuple[int, int]] = []

    def save_best(model: Any) -> None:
        found = saved(tmp_path)
        state = found.numbers["state"]
        ages.append((found.step, state["best_step"]))
        assert state["best_waits"]

    clock = iter(range(10**6))
    wanted = settings(minutes=1.0, evaluate_every=5, checkpoint_every=100)
    run_toy(
        tmp_path,
        wanted,
        save_best=save_best,
        clock=lambda: next(clock) * 0.1,
        evaluate=lambda model: {"x": next(clock)},
    )
    assert len(ages) > 2
    assert all(step == best for step, best in ages[:-1])


def test_a_best_model_that_was_not_written_yet_is_written_when_the_run_goes_on(tmp_path: Path) -> None:
    class PowerCut(BaseException):
        pass

    def cut(model: Any) -> None:
        raise PowerCut

    clock = iter(range(10**6))
    wanted = settings(minutes=1.0, evaluate_every=5)
    with pytest.raises(PowerCut):
        run_toy(tmp_path, wanted, save_best=cut, clock=lambda: next(clock) * 0.1)
    step = saved(tmp_path).step
    kept: list[int] = []
    run_toy(
        tmp_path,
        wanted,
        resume=True,
        save_best=lambda model: kept.append(saved(tmp_path).step),
        clock=lambda: next(clock) * 0.1,
    )
    assert kept[0] == step


def test_a_log_on_a_full_disk_is_a_disk_error_with_its_path(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        return
    log = RunLog(full)
    with pytest.raises(DiskError, match=r"(?s)/dev/full: the disk is full.*free"):
        log._write({"step": 1})
    log.close()


def test_a_setting_that_is_newer_than_the_run_has_its_default(tmp_path: Path) -> None:
    import hashlib
    import json

    run_toy(tmp_path, settings(steps=4, checkpoint_every=2))
    for folder in Checkpoints(tmp_path / "checkpoints").folders():
        state = json.loads((folder / "state.json").read_text())
        del state["settings"]["max_skipped"]  # as if a version had written it that did not have it
        del state["state"]["best_waits"]
        text = json.dumps(state).encode()
        (folder / "state.json").write_bytes(text)
        lines = (folder / "MANIFEST").read_text().splitlines(keepends=True)[:-1]
        lines[-1] = f"{hashlib.sha256(text).hexdigest()} {len(text)} state.json\n"
        whole = "".join(lines)
        (folder / "MANIFEST").write_text(f"{whole}{hashlib.sha256(whole.encode()).hexdigest()} of the lines above\n")
    _, result = run_toy(tmp_path, settings(steps=4, checkpoint_every=2), resume=True)
    assert result.already_finished
