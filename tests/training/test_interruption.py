"""Runs in processes of their own that are killed, stopped and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ciyuan.batch import Batch, Loss
from ciyuan.errors import Stopped
from ciyuan.training.signals import Interrupted, Signals
from tests.training.toy import NextToken, dev_loss, processes, run_slowly, run_toy, settings


def start(folder: Path, pause: float) -> Any:
    process = processes.Process(target=run_slowly, args=(folder, pause))
    process.start()
    return process


def logged(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("elapsed", "tokens_per_second")} for line in found
    ]


def test_a_run_killed_again_and_again_ends_in_the_same_bits(tmp_path: Path) -> None:
    run_slowly(tmp_path / "through", 0.0)
    draw, kills, last = random.Random(4), 0, 0
    while True:
        process = start(tmp_path / "cut", 0.005)
        until = last + draw.randrange(8, 16)
        while process.is_alive() and _lines(tmp_path / "cut") < until:
            time.sleep(0.002)
        if not process.is_alive():
            break
        time.sleep(draw.random() * 0.02)  # anywhere: in a step, in a save, in an evaluation
        process.kill()
        process.join()
        kills, last = kills + 1, _lines(tmp_path / "cut")
        assert kills < 30
    assert kills >= 2
    assert process.exitcode == 0
    assert logged(tmp_path / "cut") == logged(tmp_path / "through")
    final = "checkpoints/step-60/weights.safetensors"
    assert (tmp_path / "cut" / final).read_bytes() == (tmp_path / "through" / final).read_bytes()


def _lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def signalled_in(place: str, folder: Path, number: int = signal.SIGTERM) -> Any:
    """Train a toy that sends itself a signal: in a step, or in an evaluation."""
    sent: list[bool] = []

    def once() -> None:
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), number)

    class Objective(NextToken):
        calls = 0

        def loss(self, model: Any, batch: Batch, *, progress: float = 0.0) -> Loss:
            self.calls += 1
            if place == "step" and self.calls == 13:  # the seventh step's first half
                once()
            return super().loss(model, batch)

    def evaluate(model: Any) -> dict[str, float]:
        scores = dev_loss(model)
        if place == "evaluation":
            once()
            try:
                time.sleep(0)
            except Exception:  # noqa: BLE001 (a callback that catches all)
                pytest.fail("an interruption is no Exception")
        return scores

    return run_toy(
        folder, settings(accumulate=2, evaluate_every=5, log_every=1), objective=Objective(), evaluate=evaluate
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("place", "step"), [("step", 7), ("evaluation", 5)])
def test_a_signal_leaves_a_checkpoint_and_the_run_goes_on_from_it(
    tmp_path: Path, place: str, step: int, number: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"{signal.Signals(number).name} at step {step};") as caught:
        signalled_in(place, tmp_path / "cut", number)
    assert caught.value.exit_code == 143
    assert signal.getsignal(number) == before
    assert (tmp_path / "cut" / "checkpoints" / f"step-{step}").is_dir()
    wanted = settings(accumulate=2, evaluate_every=5, log_every=1)
    through, _ = run_toy(tmp_path / "through", wanted)
    resumed, _ = run_toy(tmp_path / "cut", wanted, resume=True)
    assert logged(tmp_path / "cut") == logged(tmp_path / "through")
    assert all((one == two).all() for one, two in zip(through.parameters(), resumed.parameters()))


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    process = start(tmp_path / "run", 1.0)
    while not list(tmp_path.glob("run/metrics.jsonl")):
        time.sleep(0.01)
    time.sleep(1.0)  # inside the first step, which takes two seconds
    process.terminate()
    time.sleep(0.1)
    process.terminate()
    process.join(timeout=20)
    assert process.exitcode == -signal.SIGTERM


def test_training_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run_toy(tmp_path, settings(steps=3))[1].steps))
    thread.start()
    thread.join()
    assert results == [3]


def test_only_what_may_be_interrupted_is() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.name == "SIGTERM"
        with pytest.raises(Interrupted), signals.may_interrupt():
            pytest.fail("not reached")
