from __future__ import annotations

import torch
from torch import nn

from ciyuan.training.averaging import Average
from tests.training.toy import settings


def follow(wanted: dict[str, object], values: list[float]) -> tuple[Average, nn.Parameter]:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = Average({"p": parameter}, settings(**wanted))
    for i, value in enumerate(values):
        parameter.data.fill_(value)
        average.update((i + 1) / len(values))
    return average, parameter


def seen(average: Average, parameter: nn.Parameter) -> float:
    with average.in_place():
        return parameter.item()


def test_ema_fades_as_its_formula_says() -> None:
    values = [1.0, 5.0, -2.0, 4.0, 8.0]
    average, parameter = follow({"average": "ema", "average_decay": 0.3}, values)
    expected = values[0]
    for n, value in enumerate(values[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert abs(seen(average, parameter) - expected) < 1e-12


def test_tail_is_the_plain_mean_of_the_last_steps() -> None:
    average, parameter = follow({"average": "tail", "average_tail": 0.5}, [9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 6.0])
    assert abs(seen(average, parameter) - (9.0 + 1 + 2 + 3 + 6) / 5) < 1e-12


def test_the_trained_weights_come_back_even_after_an_error() -> None:
    average, parameter = follow({"average": "tail", "average_tail": 1.0}, [1.0, 3.0])
    try:
        with average.in_place():
            assert parameter.item() == 2.0
            raise RuntimeError
    except RuntimeError:
        pass
    assert parameter.item() == 3.0


def test_before_the_tail_begins_the_model_is_as_it_is() -> None:
    parameter = nn.Parameter(torch.ones(1))
    average = Average({"p": parameter}, settings(average="tail"))
    average.update(0.2)
    assert seen(average, parameter) == 1.0
    assert average.state() == {}


def test_an_average_goes_on_where_it_was_saved() -> None:
    average, parameter = follow({"average": "ema"}, [1.0, 2.0, 5.0])
    other = Average({"p": parameter}, settings(average="ema"))
    other.load({name: tensor.clone() for name, tensor in average.state().items()}, average.updates)
    for one in (average, other):
        parameter.data.fill_(7.0)
        one.update(1.0)
    assert seen(average, parameter) == seen(other, parameter)
