"""Which of a run's models is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ciyuan.errors import TrainingError
from ciyuan.training.state import State

LOWER_IS_BETTER = ("loss", "nll", "perplexity", "bits_per_byte", "ter", "wer", "cer")


def judge(state: State, scores: Mapping[str, float], wanted: str) -> bool:
    """True where the scores are the best of the run so far, which the state then remembers.

    wanted: the score that decides, "auto" for the first there is. One that is not finite is never the best. Raises TrainingError
    where the first evaluation does not give it.
    """
    if state.metric is None:
        state.metric = wanted if wanted != "auto" else next(iter(scores), "")
    if state.metric not in scores and not state.best:
        raise TrainingError(
            f"training.metric is {state.metric!r}, which evaluation does not give",
            allowed=f"it gives: {', '.join(scores)}",
        )
    score = scores.get(state.metric, math.nan)
    sign = -1.0 if state.metric in LOWER_IS_BETTER else 1.0
    best = math.isfinite(score) and (not state.best or sign * score > sign * state.best[state.metric])
    if best:
        state.best = {name: number for name, number in scores.items() if math.isfinite(number)}
        state.best_step = state.step
    state.evaluations_since_best = 0 if best else state.evaluations_since_best + 1
    return best
