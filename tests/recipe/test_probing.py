"""What the probe makes of a machine: one whose speed the test decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ciyuan.recipe.probing import Machine, Precision, probe
from ciyuan.recipe.settings import Recipe, read_recipe

STEP = 1000


class FakeMachine:
    """Time passes only where it trains: each token takes n × `rate`, each step `update` tokens' time more."""

    def __init__(self, *, rate: float = 1e-9, update: float = 0.0, one_thread: float = 2.0, bf16: float = 2.0) -> None:
        self.now, self.rate, self.update, self.one_thread, self.bf16 = 0.0, rate, update, one_thread, bf16
        self.trained: list[tuple[int, int, str]] = []

    def __call__(self) -> float:
        return self.now

    def slow(self, precision: Precision) -> float:
        return (self.one_thread if torch.get_num_threads() == 1 else 1.0) * (self.bf16 if precision == "bf16" else 1.0)


class Fake:
    def __init__(self, machine: FakeMachine, n: int) -> None:
        self.machine, self.n, self.what = machine, n, str(n)

    def step(self, batches: Sequence[Any], precision: Precision) -> int:
        tokens = sum(batches)
        self.machine.now += self.machine.rate * self.n * (tokens + self.machine.update) * self.machine.slow(precision)
        self.machine.trained.append((self.n, tokens, precision))
        return tokens


def run(
    machine: FakeMachine, *, ns: Sequence[int] = (10**5, 10**6, 10**7), seconds: float = 15.0, **options: Any
) -> Machine:
    recipes = [read_recipe("causal-lm", overrides=[f"training.seed={i}"]) for i in range(2 * len(ns))]

    def trial(recipe: Recipe) -> Fake:
        return Fake(machine, ns[recipe.training.seed // 2])

    def batches(recipe: Recipe, larger: int) -> list[Any]:
        return [STEP * larger] * 3

    options = {"threads": [2, 1], "precisions": ["fp32", "bf16"], "device": "cpu", **options}
    return probe(recipes, trial, batches, seconds=seconds, clock=machine, **options)


def test_it_finds_the_speed_of_each_size_and_what_an_update_costs() -> None:
    found = run(FakeMachine(update=700.0))
    assert [one.n for one in found.sizes] == [10**5, 10**6, 10**7]
    assert found.overhead == pytest.approx(700)
    assert found.speeds.seconds(1e6) == pytest.approx(1e-9 * 1e6 * (STEP + 700) / STEP)
    assert (found.threads, found.precision, found.gain) == (2, "fp32", 1.0)


def test_it_takes_fewer_threads_and_a_lower_precision_only_where_they_pay() -> None:
    assert run(FakeMachine(one_thread=0.95, bf16=0.95)).threads == 2
    found = run(FakeMachine(one_thread=0.5, bf16=0.5))
    assert (found.threads, found.precision) == (1, "bf16")
    assert found.gain == pytest.approx(4)
    assert found.speeds.seconds(1e6) == pytest.approx(1e-3 / 4)
    found = run(
        FakeMachine(one_thread=0.5, bf16=0.5), threads=[2], precisions=["fp32"]
    )  # the recipe's own: nothing is tried
    assert (found.threads, found.precision, len(found.others)) == (2, "fp32", 1)


@pytest.mark.parametrize("rate", [1e-11, 1e-9, 1e-8])
def test_it_is_done_in_its_time_and_begins_with_the_small(rate: float) -> None:
    machine = FakeMachine(rate=rate)
    found = run(machine)
    assert found.took == pytest.approx(machine.now)
    assert machine.trained[0][0] == 10**5
    assert found.took <= 15.0 * 1.3 + 2 * rate * 10**7 * STEP * 4


def test_a_slow_machine_is_not_asked_for_large_sizes() -> None:
    found = run(FakeMachine(rate=2e-8))
    assert [one.n for one in found.sizes] == [10**5, 10**6]


def test_the_number_of_threads_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    run(FakeMachine())
    assert torch.get_num_threads() == before
