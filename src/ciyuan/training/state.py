"""What a run knows of itself besides tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

FIRST_EVALUATION = 0.1  # of the run: early, for it tells how much time the last one will need


@dataclass
class State:
    """All that a run knows besides tensors: what a checkpoint keeps as JSON.

    A field may be added with a default, for checkpoints that are older than it; none may be taken away or change its meaning.
    """

    step: int = 0
    batches: int = 0
    tokens: int = 0
    elapsed: float = 0.0  # seconds, of all sittings together
    progress: float = 0.0
    evaluated: int = -1  # the step of the last evaluation
    next_evaluation: float = FIRST_EVALUATION  # progress
    evaluations_since_best: int = 0
    best: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    metric: str | None = None
    skipped: int = 0
    skipped_in_row: int = 0
    costs: dict[str, float] = field(default_factory=dict)  # seconds that the last evaluation, … took
    sums: dict[str, float] = field(default_factory=dict)  # since the last report
    spike: dict[str, float] = field(default_factory=lambda: {"n": 0, "mean": 0.0, "variance": 0.0, "warned": -1000})
    average_updates: int = 0
    best_waits: bool = False  # the best model is still to be written
    log_position: int = 0
    finished: str | None = None
    warnings: list[str] = field(default_factory=list)
