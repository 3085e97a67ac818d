"""What share of the highest rate applies when: pure functions of how far the run is.

progress: 0 at the start, 1 at the end, whether the run is measured in steps, tokens or minutes.
warmed: how much of the warm-up is done: 0 at the start, 1 at its end, and on in proportion (2 after twice its length).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ciyuan.training.settings import ScheduleName, TrainingSettings

Shape = Callable[[float, float, float], float]


def rate(settings: TrainingSettings, progress: float, step: int) -> float:
    """The share of the highest rate, 0 … 1, for the update that follows `step` updates at `progress`.

    The warm-up rises in a straight line and multiplies what the schedule gives, so that the two need not know each other.
    """
    progress = min(1.0, max(0.0, progress))
    assert settings.warmup != "auto", "resolved by now"
    warmed = _warmed(settings.warmup, progress, step)
    shape = SCHEDULES[settings.schedule](progress, warmed, settings.decay)
    return min(1.0, warmed) * (settings.final_lr + (1 - settings.final_lr) * shape)


def constant(progress: float, warmed: float, decay: float) -> float:
    return 1.0


def linear(progress: float, warmed: float, decay: float) -> float:
    """1 at the start, 0 at the end."""
    return 1.0 - progress


def constant_linear(progress: float, warmed: float, decay: float) -> float:
    """1, then in a straight line to 0 over the last `decay` of the run. Source: Hägele et al. 2024, arXiv:2405.18392."""
    return min(1.0, (1.0 - progress) / decay)


def cosine(progress: float, warmed: float, decay: float) -> float:
    """Half a cosine from 1 to 0. Source: Loshchilov and Hutter 2017, SGDR, eq. 5, one cycle."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def inverse_sqrt(progress: float, warmed: float, decay: float) -> float:
    """1/√warmed after the warm-up: half of the rate once four times its length has passed. Source: Vaswani et al. 2017, eq. 3."""
    return 1.0 / math.sqrt(max(1.0, warmed))


SCHEDULES: dict[ScheduleName, Shape] = {
    "constant": constant,
    "linear": linear,
    "constant-linear": constant_linear,
    "cosine": cosine,
    "inverse-sqrt": inverse_sqrt,
}


def _warmed(warmup: float, progress: float, step: int) -> float:
    if warmup == 0:
        return math.inf
    if warmup >= 1:
        return (step + 1) / warmup  # the first update has a rate above zero
    return max(progress / warmup, 0.02)  # likewise
