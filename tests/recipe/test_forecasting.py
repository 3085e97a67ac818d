"""A curve through a few short runs, and what it leaves open."""

from __future__ import annotations

import random

import pytest

from ciyuan.recipe.forecasting import curves, predict
from ciyuan.recipe.outlook import forecast


def law(tokens: float) -> float:
    return 2.0 + 1.5 * (1e6 / tokens) ** 0.4


def test_points_on_a_power_law_are_continued_as_it_goes_on() -> None:
    found = curves([(tokens, law(tokens)) for tokens in (1e5, 2e5, 4e5)])
    assert found[0].power == pytest.approx(0.4)
    assert found[0].lowest == pytest.approx(2.0)
    assert found[0].scale == pytest.approx(1.5)
    for tokens in (1e6, 1e7):
        seen = predict(found, tokens)
        assert seen.expected == pytest.approx(law(tokens))
        assert seen.low < law(tokens) < seen.high


def test_the_range_widens_with_the_distance() -> None:
    exact = [(tokens, law(tokens)) for tokens in (1e5, 2e5, 4e5)]
    near, far = (predict(curves(exact), tokens) for tokens in (1e6, 1e8))
    assert far.high - far.low > near.high - near.low


def test_the_truth_lies_in_the_range_of_noisy_runs() -> None:
    draw, held = random.Random(0), 0
    for _ in range(100):
        points = [(tokens, law(tokens) * draw.gauss(1, 0.004)) for tokens in (8e4, 1.6e5, 3.3e5)]
        seen = predict(curves(points), 2e6)
        held += seen.low <= law(2e6) <= seen.high
    assert held >= 90


def test_a_curve_never_goes_below_zero_nor_up() -> None:
    for points in ([(1e5, 1.0), (2e5, 0.3), (4e5, 0.05)], [(1e5, 1.0), (2e5, 1.1), (4e5, 1.2)]):
        seen = [predict(curves(points), tokens) for tokens in (1e6, 1e9)]
        assert all(one.low >= 0 for one in seen)
        assert seen[1].expected <= seen[0].expected


def test_twice_the_time_is_worth_more_with_new_text_than_with_old() -> None:
    runs = [(tokens, law(tokens)) for tokens in (50_000, 100_000, 200_000)]
    much = forecast("nll", runs, tokens=1_000_000, unique=10**9)
    little = forecast("nll", runs, tokens=1_000_000, unique=20_000)
    assert much.twice_the_time.expected == pytest.approx(law(2e6), rel=0.02)
    assert much.twice_the_text == much.planned  # none of it was seen twice
    assert little.planned.expected > much.planned.expected
    assert little.twice_the_text.expected < little.twice_the_time.expected < little.planned.expected


def test_of_a_score_that_rises_the_range_is_the_right_way_round() -> None:
    found = forecast("masked_accuracy", [(50_000, 10.0), (100_000, 16.0), (200_000, 21.0)], tokens=10**6, unique=10**9)
    assert 21 < found.planned.expected < 60
    assert found.planned.low < found.planned.expected < found.planned.high
    assert found.twice_the_time.expected > found.planned.expected
