from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ciyuan.objectives.drawing import Draws


def test_the_key_alone_decides_what_is_drawn():
    assert Draws("mask", 1, 2, 3).uniform(5).tolist() == Draws("mask", 1, 2, 3).uniform(5).tolist()
    others = [
        ("mask", 2, 1, 3),
        ("mask", 1, 23),
        ("mask", 12, 3),
        ("mask", 1, 2, 4),
        ("hole", 1, 2, 3),
        ("mask", "1", 2, 3),
    ]
    seen = {tuple(Draws(*key).uniform(2)) for key in [("mask", 1, 2, 3), *others]}
    assert len(seen) == len(others) + 1


def test_what_is_drawn_stays_the_same_for_ever():
    draws = Draws("mask", 0, 0, 0)
    assert draws.below(8, 1000).tolist() == [297, 350, 484, 200, 363, 995, 401, 7]
    assert draws.order(5).tolist() == [4, 0, 1, 3, 2]


def test_numbers_are_spread_evenly():
    draws = Draws("test", 0)
    uniform = draws.uniform(20_000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean() == pytest.approx(0.5, abs=0.01)
    counts = np.bincount(draws.below(10_000, 5), minlength=5)
    assert ((counts - 2000) ** 2 / 2000).sum() < 18.5  # χ² of 4 degrees of freedom, p = 0.001


def test_every_composition_is_equally_likely():
    draws = Draws("test", 1)
    found = Counter(tuple(draws.lengths(5, 3).tolist()) for _ in range(3000))
    assert set(found) == {(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1)}
    assert sum((n - 500) ** 2 / 500 for n in found.values()) < 20.5  # χ² of 5 degrees of freedom, p = 0.001
    assert draws.lengths(4, 1).tolist() == [4]
    assert draws.lengths(1, 1).tolist() == [1]
