"""Checkpoints that a thread writes while training goes on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ciyuan.errors import DiskError, Stopped, TrainingError
from ciyuan.training import Silent, checkpoint
from ciyuan.training.checkpoint import Checkpoints
from tests.training.test_checkpoint import NUMBERS, save, tensors
from tests.training.toy import NextToken, dev_loss, run_toy, settings


@contextlib.contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Saves stand still before their first byte, until the event is set."""
    go, real = threading.Event(), Checkpoints._write

    def write(*arguments: Any) -> Path:
        assert go.wait(timeout=30)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_write", write)
        try:
            yield go
        finally:
            go.set()


def test_what_is_saved_in_the_background_is_what_there_was_when_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, changing = Checkpoints(tmp_path / "background"), tensors(7)
    numbers: dict[str, Any] = {"state": {"step": 7}}
    with held(monkeypatch) as go:
        kept.save_in_background(7, changing, numbers)
        for group in changing.values():
            for tensor in group.values():
                tensor.zero_()
        numbers["state"]["step"] = 8
        assert kept.folders() == []
        go.set()
        kept.wait()
    Checkpoints(tmp_path / "straight").save(7, tensors(7), {"state": {"step": 7}})
    for name in ("weights.safetensors", "random.safetensors", "state.json", "MANIFEST"):
        written = [(tmp_path / how / "step-7" / name).read_bytes() for how in ("background", "straight")]
        assert written[0] == written[1]


@pytest.mark.parametrize("second", ["save", "save_in_background"])
def test_a_save_waits_for_the_one_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    kept = Checkpoints(tmp_path, keep=1)
    with held(monkeypatch) as go:
        kept.save_in_background(1, tensors(1), NUMBERS)
        threading.Timer(0.05, go.set).start()
        getattr(kept, second)(2, tensors(2), NUMBERS)
        assert second == "save" or kept.folders()  # the first is whole before the second is begun
        kept.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def test_the_one_before_stays_until_the_one_in_the_background_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = save(tmp_path, 1, keep=1)
    with held(monkeypatch):
        kept.save_in_background(2, tensors(2), NUMBERS)
        assert [path.name for path in kept.folders()] == ["step-1"]
    kept.wait()
    assert [path.name for path in kept.folders()] == ["step-2"]


def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """With a save in the background that the disk refuses."""
    kept = save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, held(monkeypatch) as go:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        kept.save_in_background(2, tensors(2), NUMBERS)
        kept.look()  # nothing is known yet
        go.set()
        assert kept._background is not None
        assert isinstance(kept._background.exception(timeout=30), DiskError)
    return kept


@pytest.mark.parametrize(
    "then",
    [
        lambda kept: kept.look(),
        lambda kept: kept.wait(),
        lambda kept: kept.save(3, tensors(), NUMBERS),
        lambda kept: kept.save_in_background(3, tensors(), NUMBERS),
    ],
    ids=["look", "wait", "save", "save in the background"],
)
def test_what_went_wrong_in_the_background_is_raised_by_what_comes_next_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: Callable[[Checkpoints], Any]
) -> None:
    kept = failing(tmp_path, monkeypatch)
    with pytest.raises(DiskError, match="1,000 are free"):
        then(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    kept.save(4, tensors(), NUMBERS)
    assert [path.name for path in kept.folders()] == ["step-1", "step-4"]


def test_on_the_way_out_what_went_wrong_in_the_background_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = failing(tmp_path, monkeypatch)
    said: list[str] = []
    kept.settle(said.append)
    kept.settle(said.append)
    assert len(said) == 1
    assert "1,000 are free" in said[0]


def test_numbers_that_json_cannot_hold_are_refused_before_anything_is_left_to_the_background(tmp_path: Path) -> None:
    kept = save(tmp_path, 1)
    with pytest.raises(ValueError):
        kept.save_in_background(2, tensors(), {"loss": float("nan")})
    kept.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


# --- In a run ----------------------------------------------------------------------------------------------------------

PLAN = {"steps": 24, "accumulate": 2, "average": "ema", "checkpoint_every": 3, "evaluate_every": 5, "log_every": 1}


def files(folder: Path) -> dict[str, bytes]:
    """Of the checkpoints that a run left, all tensors."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("checkpoints/*/*.safetensors")}


@contextlib.contextmanager
def slow_saves(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[list[str]]:
    """The names of the threads that save."""
    real, threads = Checkpoints._write, []

    def write(*arguments: Any) -> Path:
        threads.append(threading.current_thread().name)
        time.sleep(seconds)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_write", write)
        yield threads


def test_a_run_that_saves_in_the_background_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = run_toy(tmp_path / "straight", settings(**PLAN, keep_checkpoints=9))
    with slow_saves(monkeypatch, 0.02) as threads:
        two, _ = run_toy(tmp_path / "background", settings(**PLAN, keep_checkpoints=9, save_in_background=True))
    assert all(torch.equal(first, second) for first, second in zip(one.parameters(), two.parameters()))
    assert len(files(tmp_path / "straight")) == 4 * 8
    assert files(tmp_path / "background") == files(tmp_path / "straight")
    # The first tells what a save takes; the last is waited for.
    assert threads[0] == "MainThread"
    assert all(name.startswith("ciyuan-checkpoint") for name in threads[1:])
    assert len(threads) == 8


@pytest.mark.parametrize("first", [True, False])
def test_a_run_may_go_on_with_saving_in_the_background_or_without(tmp_path: Path, first: bool) -> None:
    scored: list[int] = []

    def failing(model: Any) -> dict[str, float]:
        scored.append(1)
        if len(scored) == 3:  # at step 15, which has not been saved
            raise MemoryError
        return dev_loss(model)

    through, _ = run_toy(tmp_path / "through", settings(**PLAN))
    with pytest.raises(MemoryError):
        run_toy(tmp_path / "cut", settings(**PLAN, save_in_background=first), evaluate=failing)
    model, _ = run_toy(tmp_path / "cut", settings(**PLAN, save_in_background=not first), resume=True)
    assert all(torch.equal(one, two) for one, two in zip(through.parameters(), model.parameters()))


def test_a_disk_that_is_full_in_the_background_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, saved = Checkpoints._write, []

    def write(*arguments: Any) -> Path:
        saved.append(arguments[1])
        if len(saved) == 2:
            raise DiskError("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(Checkpoints, "_write", write)
    with pytest.raises(DiskError, match="the disk is full"):
        run_toy(tmp_path, settings(**PLAN, save_in_background=True))
    assert saved == [3, 6]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]


def test_another_error_waits_for_the_save_and_keeps_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Telling(Silent):
        def on_warning(self, text: str) -> None:
            said.append(text)

    class Ending(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Any, *, progress: float = 0.0) -> Any:
            self.calls += 1
            if self.calls > 2 * 6:
                raise TrainingError("no more of this")
            return super().loss(model, batch)

    real = Checkpoints._write

    def write(kept: Checkpoints, step: int, *rest: Any) -> Path:
        if step == 6:
            time.sleep(0.05)
            raise DiskError("the disk is full")
        return real(kept, step, *rest)

    monkeypatch.setattr(Checkpoints, "_write", write)
    with pytest.raises(TrainingError, match="no more of this"):
        run_toy(tmp_path, settings(**PLAN, save_in_background=True), objective=Ending(), monitor=Telling())
    assert said == ["the disk is full"]


def test_a_signal_waits_for_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Signalling(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Any, *, progress: float = 0.0) -> Any:
            self.calls += 1
            if self.calls == 2 * 7:
                signal.raise_signal(signal.SIGTERM)
            return super().loss(model, batch)

    with slow_saves(monkeypatch, 0.05), pytest.raises(Stopped, match="at step 7"):
        run_toy(tmp_path, settings(**PLAN, save_in_background=True), objective=Signalling())
    found = Checkpoints(tmp_path / "checkpoints").latest(pytest.fail)
    assert found is not None
    assert found.step == 7


def test_the_best_model_is_written_once_the_checkpoint_before_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest: list[int] = []

    def keep(model: Any) -> None:
        found = Checkpoints(tmp_path / "checkpoints").folders()
        newest.append(int(found[-1].name.removeprefix("step-")))

    wanted = settings(**{**PLAN, "evaluate_every": 6}, save_in_background=True)
    with slow_saves(monkeypatch, 0.02):
        run_toy(tmp_path, wanted, save_best=keep)
    assert newest == [3, 9, 15, 21]
