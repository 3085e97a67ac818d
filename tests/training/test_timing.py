"""What the clock and the counts decide."""

from __future__ import annotations

from typing import Any

import pytest

from ciyuan.training import timing
from ciyuan.training.state import State
from tests.training.toy import settings


def test_the_nearest_limit_says_how_far_a_run_is() -> None:
    state = State(step=5, tokens=900)
    assert timing.progress_at(state, settings(steps=20), 0.0) == 0.25
    assert timing.progress_at(state, settings(steps=20, tokens=1000), 0.0) == 0.9
    assert timing.progress_at(state, settings(minutes=1.0), 30.0) == 0.5
    assert timing.progress_at(State(costs={"evaluate": 20.0}), settings(minutes=1.0), 30.0) == 0.75
    assert timing.progress_at(State(costs={"evaluate": 70.0}), settings(minutes=1.0), 1.0) == 1.0


@pytest.mark.parametrize(
    ("state", "limits", "expected"),
    [
        (State(step=3), {"steps": 3}, "steps"),
        (State(step=3, tokens=7), {"steps": 9, "tokens": 7}, "tokens"),
        (State(step=3, elapsed=59.6), {"minutes": 1.0}, "minutes"),
        (State(step=3, elapsed=59.4), {"minutes": 1.0}, None),
        (State(step=3, elapsed=49.6, costs={"checkpoint": 10.0}), {"minutes": 1.0}, "minutes"),
        (State(step=0, elapsed=90.0), {"minutes": 1.0}, None),  # at least one step, however late it is
        (State(step=3, evaluations_since_best=2), {"steps": 9, "early_stop": 2}, "early stop"),
    ],
)
def test_a_limit_ends_a_run_half_a_step_early_at_most(state: State, limits: Any, expected: str | None) -> None:
    assert timing.limit_reached(state, settings(**limits), 1.0) == expected


def test_what_remains_is_the_clocks_or_goes_by_the_pace() -> None:
    assert timing.remaining(settings(minutes=1.0), 20.0, 0.1) == 40.0
    assert timing.remaining(settings(steps=9), 20.0, 0.25) == 60.0
    assert timing.remaining(settings(steps=9), 20.0, 0.0) is None


def test_evaluations_are_spaced_so_that_they_cost_a_twentieth() -> None:
    wanted = settings(minutes=10.0)
    assert timing.next_evaluation(State(next_evaluation=0.1, progress=0.1, costs={"evaluate": 1.0}), wanted) == 0.2
    assert timing.next_evaluation(State(next_evaluation=0.5, progress=0.6, costs={"evaluate": 7.5}), wanted) == 0.75
    assert timing.next_evaluation(State(next_evaluation=0.9, progress=0.9), wanted) == 2.0  # the last one is due anyway


def test_checkpoints_are_a_minute_apart_and_cost_a_twentieth() -> None:
    def due(state: State, **changes: Any) -> bool:
        return timing.checkpoint_due(state, settings(**changes), saved_step=4, saved_at=100.0)

    assert not due(State(step=9, elapsed=159.0))
    assert due(State(step=9, elapsed=161.0))
    assert not due(State(step=9, elapsed=161.0, costs={"checkpoint": 4.0}))
    assert due(State(step=9, elapsed=181.0, costs={"checkpoint": 4.0}))
    assert due(State(step=9, elapsed=101.0, evaluated=9))
    assert not due(State(step=4, elapsed=900.0))
    assert due(State(step=9), checkpoint_every=3)
    assert not due(State(step=8), checkpoint_every=3)
