from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.training.schedules import SCHEDULES, rate
from tests.training.toy import resolved, settings


def at(progress: float, step: int = 10**6, **changes: object) -> float:
    return rate(resolved(**{"warmup": 0, **changes}), progress, step)


def test_the_corners_of_each_schedule() -> None:
    assert [at(p, schedule="constant") for p in (0, 0.5, 1)] == [1, 1, 1]
    assert [at(p, schedule="linear") for p in (0, 0.25, 1)] == [1, 0.75, 0]
    assert [at(p, schedule="constant-linear", decay=0.4) for p in (0, 0.6, 0.8, 1)] == pytest.approx([1, 1, 0.5, 0])
    assert [at(p, schedule="cosine") for p in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])


def test_inverse_sqrt_is_the_formula_of_2017() -> None:
    def formula(step: int, warmup: int) -> float:
        return min(step**-0.5, step * warmup**-1.5) / warmup**-0.5

    for step in (1, 2, 50, 100, 101, 400, 10_000):
        found = at(step / 10_000, step - 1, schedule="inverse-sqrt", warmup=100)
        assert found == pytest.approx(formula(step, 100))


def test_a_share_as_warmup_ends_at_that_share_of_the_run() -> None:
    found = [at(p, schedule="constant", warmup=0.1) for p in (0.0, 0.05, 0.1, 0.5)]
    assert found == pytest.approx([0.02, 0.5, 1, 1])


def test_steps_as_warmup_end_after_so_many_steps() -> None:
    assert [at(0.5, step, schedule="constant", warmup=4) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]


def test_final_lr_is_what_is_left() -> None:
    assert at(1.0, schedule="linear", final_lr=0.1) == pytest.approx(0.1)
    assert at(0.5, schedule="linear", final_lr=0.1) == pytest.approx(0.55)


@given(
    st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6), st.floats(0.01, 0.9)
)
def test_a_rate_is_between_zero_and_one_and_never_rises_after_the_warmup(
    name: str, one: float, two: float, step: int, warmup: float
) -> None:
    early, late = sorted((one, two))
    first, second = (at(p, step, schedule=name, warmup=warmup) for p in (early, late))
    assert 0 <= second <= 1
    assert math.isfinite(first)
    if early >= warmup:
        assert second <= first + 1e-12


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in (
        {"schedule": "inverse-sqrt", "warmup": 0}, {"lr": -1.0}, {"betas": (0.9, 1.0)}, {"evaluate_every": 0},
        {"threads": 0}, {"steps": 0}, {"minutes": 0.0}, {"lr_rate": 1.0}, {"schedule": "cosin"},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            settings(**wrong)


def test_without_a_limit_a_run_takes_twenty_minutes() -> None:
    from ciyuan.training import TrainingSettings

    assert TrainingSettings().minutes == 20
    assert TrainingSettings(steps=5).minutes is None
