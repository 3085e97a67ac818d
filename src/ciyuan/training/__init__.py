"""Learning: one loop for every model and objective, its optimisers, schedules, checkpoints and reports."""

from ciyuan.training.loop import train
from ciyuan.training.machine import prepare_process
from ciyuan.training.monitor import EvaluationReport, Monitor, RunLog, RunStart, Silent, StepReport, TrainingResult
from ciyuan.training.run import RunFolder
from ciyuan.training.settings import TrainingSettings

__all__ = [
    "EvaluationReport", "Monitor", "RunFolder", "RunLog", "RunStart", "Silent", "StepReport", "TrainingResult",
    "TrainingSettings", "prepare_process", "train",
]  # fmt: skip
