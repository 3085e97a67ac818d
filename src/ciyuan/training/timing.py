"""What the clock and the counts decide: how far a run is, when it ends, when it is time to evaluate and to save.

Pure functions of the state and the settings, so that a run that goes on decides as it would have. Times are seconds of the run,
all sittings together; progress is 0 at the start and 1 at the end.

    0 ───────── progress ─────────────────────────────────────────────── 1
        step step … evaluate … save … step step …          evaluate, save
                                                           └─ reserve ──┘  kept free under `minutes`, going by the last ones
"""

from __future__ import annotations

from ciyuan.training.settings import TrainingSettings
from ciyuan.training.state import FIRST_EVALUATION, State

EVALUATION_SHARE = 0.05  # of a run's minutes, under evaluate_every: auto
CHECKPOINT_SECONDS = 60.0
CHECKPOINT_SHARE = 0.05


def progress_at(state: State, settings: TrainingSettings, elapsed: float) -> float:
    """0 … 1 by whichever limit is nearest."""
    shares = [0.0]
    if settings.steps is not None:
        shares.append(state.step / settings.steps)
    if settings.tokens is not None:
        shares.append(state.tokens / settings.tokens)
    if settings.minutes is not None:
        usable = 60 * settings.minutes - _reserve(state)
        shares.append(elapsed / usable if usable > 0 else 1.0)
    return min(1.0, max(shares))


def limit_reached(state: State, settings: TrainingSettings, step_seconds: float) -> str | None:
    """Which limit ends the run here, if any does. step_seconds: what another step would take."""
    if settings.steps is not None and state.step >= settings.steps:
        return "steps"
    if settings.tokens is not None and state.tokens >= settings.tokens:
        return "tokens"
    if settings.minutes is not None:
        end = 60 * settings.minutes - _reserve(state)
        if state.step > 0 and state.elapsed + step_seconds / 2 >= end:
            return "minutes"
    if settings.early_stop is not None and state.evaluations_since_best >= settings.early_stop:
        return "early stop"
    return None


def remaining(settings: TrainingSettings, elapsed: float, progress: float) -> float | None:
    """Seconds up to the end, estimated; None where nothing is known yet."""
    if settings.minutes is not None and settings.steps is None and settings.tokens is None:
        return max(0.0, 60 * settings.minutes - elapsed)
    return elapsed * (1 - progress) / progress if progress > 0 else None


def evaluation_due(state: State, settings: TrainingSettings) -> bool:
    """Of a run that is neither at its end nor evaluated at this step."""
    every = settings.evaluate_every
    if state.step == 0:
        return False
    if every == "auto":
        return state.progress >= state.next_evaluation
    unmeasured = settings.minutes is not None and "evaluate" not in state.costs
    return state.step % every == 0 or (unmeasured and state.progress >= 2 * FIRST_EVALUATION)


def first_evaluation(progress: float) -> float:
    """When to evaluate first, as progress. What was spent before the first step is no reason to evaluate an untrained model."""
    return round(progress + FIRST_EVALUATION, 9)


def next_evaluation(state: State, settings: TrainingSettings) -> float:
    """When to evaluate next, as progress, after an evaluation whose cost is known; 2: at the end only, where it is always due."""
    interval = FIRST_EVALUATION
    if settings.minutes is not None:
        cost = sum(state.costs.get(name, 0.0) for name in ("evaluate", "save_best"))
        interval = max(interval, cost / (EVALUATION_SHARE * 60 * settings.minutes))
        if state.progress < 0.5:  # the cost of the first, of a model that babbles, says little about the last
            interval = min(interval, 0.5)
    mark = round(state.next_evaluation + interval, 9)
    if mark <= state.progress:
        mark = state.progress + interval
    return mark if mark < 1 - 0.3 * FIRST_EVALUATION else 2.0


def checkpoint_due(state: State, settings: TrainingSettings, *, saved_step: int, saved_at: float) -> bool:
    """saved_step, saved_at: the step and the time of the last checkpoint."""
    every = settings.checkpoint_every
    if state.step in (0, saved_step):
        return False
    if every != "auto":
        return state.step % every == 0
    if state.evaluated == state.step:
        return True  # so that what is kept as the best, and what a resumed run takes for the best, are the same
    pause = max(CHECKPOINT_SECONDS, state.costs.get("checkpoint", 0.0) / CHECKPOINT_SHARE)
    return state.elapsed - saved_at >= pause


def _reserve(state: State) -> float:
    """Seconds that the end of the run needs: the last evaluation and what is saved, going by the last ones."""
    return sum(state.costs.values())
