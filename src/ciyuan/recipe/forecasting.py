"""What a longer run will score, from a few short ones: a power law with an offset, and how much it leaves open. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POWERS = tuple(round(0.1 + 0.025 * k, 3) for k in range(37))
"""From 0.1 to 1: below, nothing would ever be learnt; above, nothing was seen to be learnt so fast for long."""
NOISE = 0.01
"""Of a value: what another seed changes. A curve that is off by no more is a curve that may be."""


@dataclass(frozen=True)
class Curve:
    """value = lowest + scale · (10⁶ / tokens)^power. off: root mean square of what it misses its points by."""

    lowest: float
    scale: float
    power: float
    off: float

    def at(self, tokens: float) -> float:
        return self.lowest + self.scale * math.pow(1e6 / tokens, self.power)


@dataclass(frozen=True)
class Range:
    """What is expected, and between what."""

    expected: float
    low: float
    high: float


def curves(points: Sequence[tuple[float, float]]) -> list[Curve]:
    """The curves that may be behind (tokens, value), the likeliest first: for each power the least squares, neither offset nor
    scale below zero; kept are those that miss the points by little more than the best, or than chance does.

    At least two points. Source of the form: Hestness et al. 2017, eq. 2; Kaplan et al. 2020.
    """
    assert len(points) > 1, "one point is no curve"
    tokens, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    found = [_least_squares(tokens, values, power) for power in POWERS]
    found.sort(key=lambda curve: curve.off)
    chance = max(2 * found[0].off, NOISE * float(np.mean(values)))
    return [curve for curve in found if curve.off <= chance]


def _least_squares(tokens: np.ndarray, values: np.ndarray, power: float) -> Curve:
    falling = (1e6 / tokens) ** power
    spread = float(((falling - falling.mean()) ** 2).sum())
    scale = float(((falling - falling.mean()) * (values - values.mean())).sum()) / spread if spread else 0.0
    scale = max(0.0, scale)
    lowest = float(values.mean() - scale * falling.mean())
    if lowest < 0:
        lowest, scale = 0.0, max(0.0, float((falling * values).sum() / (falling**2).sum()))
    off = math.sqrt(float(((lowest + scale * falling - values) ** 2).mean()))
    return Curve(lowest, scale, power, off)


def predict(found: Sequence[Curve], tokens: float) -> Range:
    """By the likeliest curve, between the extremes of all, widened by what they miss their own points by and by chance."""
    expected = found[0].at(tokens)
    off = max(found[0].off, NOISE * expected / 2)
    values = [curve.at(tokens) for curve in found]
    return Range(expected, max(0.0, min(values) - off), max(values) + off)
