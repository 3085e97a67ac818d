"""What a run tells while it goes on: to a terminal, to files, to whoever implements `Monitor`."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ciyuan.data.folders import saying_disk_errors

if TYPE_CHECKING:
    from tensorboard.summary.writer.record_writer import RecordWriter

    from ciyuan.data.previews import Preview


@dataclass(frozen=True)
class RunStart:
    """How the run begins. step: 0, or where it goes on."""

    step: int
    steps: int | None
    minutes: float | None
    tokens: int | None
    parameters: int
    optimizer: str
    rates: Mapping[str, float]
    """The highest of each role of parameters."""


@dataclass(frozen=True)
class StepReport:
    """The run after `step` updates. What is measured is measured over the steps since the report before."""

    step: int
    epoch: int
    epoch_fraction: float
    loss: float
    """Mean negative log-likelihood per target, in nats, without label smoothing; after a dropped update it may be NaN."""
    lr: float
    """Rate of the hidden matrices."""
    grad_norm: float
    """Of the last step, before clipping."""
    tokens: int
    """Since the start of the run."""
    tokens_per_second: float
    elapsed: float
    """Seconds of training, evaluation and saving included, before an interruption included."""
    progress: float
    """0 … 1."""
    remaining: float | None
    """Seconds, estimated."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What else the objective measures, per target."""
    of_ceiling: float | None = None
    """The model's matrix products a second, as a share of what this machine can; None where that was not measured."""


@dataclass(frozen=True)
class EvaluationReport:
    """Scores at a step. best: by the chosen metric, the best of the run so far."""

    step: int
    epoch: int
    elapsed: float
    scores: Mapping[str, float]
    metric: str
    best: bool


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended."""

    steps: int
    seconds: float
    tokens: int
    best: Mapping[str, float]
    """The scores of the best evaluation; empty where nothing was evaluated."""
    best_step: int | None
    stopped_because: str
    """"steps", "minutes", "tokens" or "early stop"."""
    warnings: tuple[str, ...] = ()
    already_finished: bool = False
    """True: there was nothing left to do."""


class Monitor(Protocol):
    """Hears of everything, in order. Called from the thread that trains, which waits: be quick."""

    def on_start(self, start: RunStart) -> None: ...

    def on_step(self, report: StepReport) -> None: ...

    def on_evaluation(self, report: EvaluationReport) -> None: ...

    def on_message(self, text: str) -> None: ...

    def on_preview(self, examples: Sequence[Preview]) -> None:
        """Some examples as the model will see them, before the first step."""

    def on_warning(self, text: str) -> None: ...

    def on_end(self, result: TrainingResult) -> None: ...


class Silent:
    """Hears and says nothing; a base for monitors that want only some of it."""

    def on_start(self, start: RunStart) -> None:
        pass

    def on_step(self, report: StepReport) -> None:
        pass

    def on_evaluation(self, report: EvaluationReport) -> None:
        pass

    def on_message(self, text: str) -> None:
        pass

    def on_preview(self, examples: Sequence[Preview]) -> None:
        pass

    def on_warning(self, text: str) -> None:
        pass

    def on_end(self, result: TrainingResult) -> None:
        pass


class RunLog(Silent):
    """metrics.jsonl, one JSON object a line, and the same curves as TensorBoard events.

        {"step": 10, "epoch": 0, "loss": 6.1, "lr": 0.02, "grad_norm": 0.8, "tokens": 20480, "tokens_per_second": 3100.0, …}
        {"step": 10, "epoch": 0, "elapsed": 7.0, "scores": {"chrf": 4.1}, "best": true}

    A resumed run cuts the file back to where its checkpoint stood, so that each step is in it once.
    """

    def __init__(self, path: Path, *, events: Path | None = None) -> None:
        """path: of metrics.jsonl. events: folder for TensorBoard; None, or without its package: no events."""
        self.path = path
        with saying_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("ab", buffering=0)
        self._events_folder = events
        self._events: _Events | None = None

    @property
    def position(self) -> int:
        """Bytes written, all of them on the disk once this is known. Raises DiskError."""
        with saying_disk_errors(self.path):
            os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, position: int, step: int) -> bool:
        """Forget what was written after `position`. False where less than that is left. step: where the run goes on."""
        whole = self.path.stat().st_size >= position
        if whole:
            self._file.truncate(position)
            self._file.seek(position)
        else:
            self._file.truncate(self._whole_lines())
            self._file.seek(0, os.SEEK_END)
        if self._events_folder is not None:
            self._events = _Events.open(self._events_folder, resumed_at=step)
        return whole

    def on_step(self, report: StepReport) -> None:
        curves = {
            "loss": report.loss, **report.metrics, "lr": report.lr, "grad_norm": report.grad_norm,
            "tokens": report.tokens, "tokens_per_second": report.tokens_per_second,
            **({} if report.of_ceiling is None else {"of_ceiling": report.of_ceiling}),
        }  # fmt: skip
        self._write({"step": report.step, "epoch": report.epoch, **curves, "elapsed": report.elapsed})
        self._plot(report.step, {f"train/{name}": value for name, value in curves.items()})

    def on_evaluation(self, report: EvaluationReport) -> None:
        self._write(
            {
                "step": report.step,
                "epoch": report.epoch,
                "elapsed": report.elapsed,
                "scores": dict(report.scores),
                "best": report.best,
            }
        )
        self._plot(report.step, {f"dev/{name}": value for name, value in report.scores.items()})

    def on_end(self, result: TrainingResult) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        waiting = json.dumps(_plain(line), ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with saying_disk_errors(self.path):
            while waiting:  # a disk that gets full takes a part of it first
                waiting = waiting[self._file.write(waiting) :]

    def _plot(self, step: int, curves: Mapping[str, float]) -> None:
        if self._events is None and self._events_folder is not None:
            self._events = _Events.open(self._events_folder)
            if self._events is None:
                self._events_folder = None
        if self._events is not None:
            assert self._events_folder is not None
            with saying_disk_errors(self._events_folder):
                self._events.write(step, curves)

    def _whole_lines(self) -> int:
        data = self.path.read_bytes()
        return data.rfind(b"\n") + 1


class Several(Silent):
    """One monitor made of several; what is warned of is kept, for the report."""

    def __init__(self, monitors: Sequence[Monitor], warnings: list[str]) -> None:
        self.monitors, self.warnings = monitors, warnings

    def on_start(self, start: RunStart) -> None:
        for monitor in self.monitors:
            monitor.on_start(start)

    def on_step(self, report: StepReport) -> None:
        for monitor in self.monitors:
            monitor.on_step(report)

    def on_evaluation(self, report: EvaluationReport) -> None:
        for monitor in self.monitors:
            monitor.on_evaluation(report)

    def on_message(self, text: str) -> None:
        for monitor in self.monitors:
            monitor.on_message(text)

    def on_preview(self, examples: Sequence[Preview]) -> None:
        for monitor in self.monitors:
            monitor.on_preview(examples)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)
        for monitor in self.monitors:
            monitor.on_warning(text)

    def on_end(self, result: TrainingResult) -> None:
        for monitor in self.monitors:
            monitor.on_end(result)


class _Events:
    """A TensorBoard event file, written record by record: no thread, and no import of torch.utils.tensorboard."""

    def __init__(self, records: RecordWriter) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._records, self._event, self._summary = records, event_pb2.Event, summary_pb2.Summary

    @staticmethod
    def open(folder: Path, resumed_at: int | None = None) -> _Events | None:
        """None where the package is not installed."""
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()  # the name's, for TensorBoard sorts files by it
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        events = _Events(RecordWriter((folder / name).open("ab")))
        events._put(event_pb2.Event(wall_time=now, file_version="brain.Event:2"))
        if resumed_at is not None:  # TensorBoard drops what earlier files have after this step
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            events._put(event_pb2.Event(wall_time=now, step=resumed_at + 1, session_log=session))
        return events

    def write(self, step: int, curves: Mapping[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in curves.items()]
        self._put(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        self._records.close()

    def _put(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
