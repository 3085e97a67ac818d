"""Divergences and margins against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ciyuan.export.predictions import Lost, Predictions

OURS = np.array([[1.0, 2.0, 0.5], [0.0, 0.1, 3.0]], dtype=np.float32)
THEIRS = np.array([[1.5, 1.0, 0.0], [0.0, 0.2, 2.5]], dtype=np.float32)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def test_the_divergence_is_the_mean_over_positions_in_nats() -> None:
    found = Predictions()
    found.add(0, OURS, THEIRS)
    expected = [
        sum(p * math.log(p / q) for p, q in zip(softmax(mine), softmax(other), strict=True))
        for mine, other in zip(OURS.tolist(), THEIRS.tolist(), strict=True)
    ]
    assert found.divergence == pytest.approx(sum(expected) / 2, rel=1e-6)
    found.add(1, OURS[:1], OURS[:1])
    assert found.count == 3
    assert found.divergence == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_a_likeliest_token_that_is_another_there_is_told_with_its_margin() -> None:
    found = Predictions()
    found.add(4, OURS, THEIRS)
    assert found.lost == [Lost(4, 0, ours=1, theirs=0, margin=pytest.approx(1.0))]
    assert found.worst == found.lost[0]
    assert found.usual_margin == pytest.approx((1.0 + 2.9) / 2, rel=1e-6)


def test_nothing_asked_is_nothing_lost() -> None:
    found = Predictions()
    found.add(0, OURS[:0], THEIRS[:0])
    assert (found.count, found.divergence, found.usual_margin, found.worst) == (0, 0.0, 0.0, None)
