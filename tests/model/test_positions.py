from __future__ import annotations

import math

import pytest
import torch

from ciyuan.model.config import ModelConfig
from ciyuan.model.positions import RotaryPositions, SinusoidalPositions, relative_buckets, rotate, sinusoids


def config(**changes: object) -> ModelConfig:
    return ModelConfig.model_validate({"family": "decoder", "vocab_size": 5, "d_model": 8, "n_heads": 2, **changes})


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids(50, config())
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert float(table[position, 2 * i]) == pytest.approx(math.sin(angle), abs=1e-6)
            assert float(table[position, 2 * i + 1]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_sinusoids_grow_with_the_text():
    positions = SinusoidalPositions(config(max_positions=4))
    x = torch.zeros(1, 9, 8)
    grown = positions.embed(x, torch.arange(9)[None])
    torch.testing.assert_close(grown[0], sinusoids(9, config()))


def test_rotary_scores_depend_on_distance_alone():
    rotary = RotaryPositions(config(positions="rotary"))
    q, k = torch.randn(2, 1, 1, 1, 4, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        turned_q = rotate(q, rotary.rotation(torch.tensor([[i]])))
        turned_k = rotate(k, rotary.rotation(torch.tensor([[j]])))
        return float((turned_q * turned_k).sum())

    assert score(3, 1) == pytest.approx(score(103, 101), rel=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), rel=1e-2)


def test_rotate_turns_pairs_half_a_head_apart():
    rotary = RotaryPositions(config(positions="rotary"))
    x = torch.randn(1, 1, 1, 4, dtype=torch.float64)
    found = rotate(x, rotary.rotation(torch.tensor([[5]])))[0, 0, 0]
    for i in range(2):
        angle = 5 * 10_000 ** (-2 * i / 4)
        first, second = float(x[0, 0, 0, i]), float(x[0, 0, 0, i + 2])
        assert float(found[i]) == pytest.approx(first * math.cos(angle) - second * math.sin(angle), rel=1e-5)
        assert float(found[i + 2]) == pytest.approx(second * math.cos(angle) + first * math.sin(angle), rel=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_near_distances_have_a_bucket_each_and_far_ones_share(causal):
    distance = torch.arange(-200, 201)
    buckets = relative_buckets(distance, n_buckets=32, max_distance=128, causal=causal)
    near = 16 if causal else 8
    past = buckets[(distance <= 0) & (distance > -near)].flip(0)
    assert past.tolist() == list(range(near))
    assert int(buckets.max()) == 31
    assert int(buckets.min()) == 0
    if causal:
        assert set(buckets[distance > 0].tolist()) == {0}
    else:
        assert set(buckets[distance > 0].tolist()).isdisjoint(buckets[distance <= 0].tolist())
