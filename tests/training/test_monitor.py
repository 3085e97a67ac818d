from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ciyuan.training import EvaluationReport, RunLog, StepReport, TrainingResult


def report(step: int, loss: float = 1.5) -> StepReport:
    return StepReport(
        step=step, epoch=0, epoch_fraction=0.5, loss=loss, lr=0.02, grad_norm=0.7, tokens=100 * step, tokens_per_second=9.0,
        elapsed=1.0 * step, progress=0.1, remaining=None, metrics={"accuracy": 0.25},
    )  # fmt: skip


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_are_json_and_what_json_has_no_word_for_is_null(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "metrics.jsonl")
    log.on_step(report(10, float("nan")))
    log.on_evaluation(EvaluationReport(10, 0, 2.0, {"chrf": 30.5, "词": float("inf")}, "chrf", best=True))
    log.close()
    one, two = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert one["loss"] is None
    assert one["accuracy"] == 0.25
    assert two == {"step": 10, "epoch": 0, "elapsed": 2.0, "scores": {"chrf": 30.5, "词": None}, "best": True}


def test_a_log_is_cut_back_to_a_position_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = RunLog(path)
    log.on_step(report(1))
    position = log.position
    log.on_step(report(2))
    log.close()
    path.open("ab").close()
    path.write_bytes(path.read_bytes() + b'{"step": 3, "los')  # torn by a power cut
    log = RunLog(path)
    assert log.cut(position, 1)
    log.on_step(report(2))
    assert log.position == path.stat().st_size
    log.close()
    assert steps_in(path) == [1, 2]


def test_a_log_that_lost_lines_keeps_the_whole_ones_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    log = RunLog(path)
    assert not log.cut(1000, 5)
    log.on_step(report(6))
    log.close()
    assert steps_in(path) == [1, 2, 6]


def test_tensorboard_reads_the_events_and_drops_what_was_trained_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = tmp_path / "tensorboard"
    log = RunLog(tmp_path / "metrics.jsonl", events=events)
    for step in (1, 2, 3, 4):
        log.on_step(report(step, loss=step))
    log.close()
    (first,) = events.iterdir()
    first.rename(
        events / "events.out.tfevents.0000000001.before"
    )  # so that it sorts before, in whatever second the test runs
    log = RunLog(tmp_path / "metrics.jsonl", events=events)
    log.cut(0, 2)
    log.on_step(report(3, loss=30.0))
    log.on_evaluation(EvaluationReport(3, 0, 2.0, {"chrf": 30.5}, "chrf", best=True))
    log.on_end(TrainingResult(3, 1.0, 1, {}, None, "steps"))
    curves = EventAccumulator(str(events)).Reload()
    assert [(point.step, point.value) for point in curves.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 30)]
    assert [(point.step, point.value) for point in curves.Scalars("dev/chrf")] == [(3, 30.5)]


def test_the_package_imports_no_tensorboard(tmp_path: Path) -> None:
    code = "import sys, ciyuan.training; print([name for name in sys.modules if name.startswith('tensorboard')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_tensorboard_there_are_no_events_and_no_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    log = RunLog(tmp_path / "metrics.jsonl", events=tmp_path / "tensorboard")
    log.on_step(report(1))
    log.on_step(report(2))
    log.close()
    assert steps_in(tmp_path / "metrics.jsonl") == [1, 2]
    assert not (tmp_path / "tensorboard").exists()
