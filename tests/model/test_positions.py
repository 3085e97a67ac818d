from __future__ import annotations

import math

import pytest
import torch

from ciyuan.model.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling
from ciyuan.model.positions import (
    RotaryPositions,
    SinusoidalPositions,
    attention_factor,
    relative_buckets,
    rotary_frequencies,
    rotate,
    sinusoids,
)


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


LLAMA_3 = Llama3Scaling(factor=8.0, low=1.0, high=4.0, original_positions=8192)
YARN = YarnScaling(factor=4.0, original_positions=32768)


def plain(base: float = 500_000.0) -> torch.Tensor:
    return rotary_frequencies(128, base=base)


def test_linear_scaling_divides_every_angle():
    assert torch.equal(rotary_frequencies(128, base=500_000.0, scaling=LinearScaling(factor=8.0)), plain() / 8)


def test_llama3_scaling_slows_only_what_turns_slowly():
    found = rotary_frequencies(128, base=500_000.0, scaling=LLAMA_3)
    for frequency, scaled in zip(plain().tolist(), found.tolist(), strict=True):
        turns = 8192 * frequency / (2 * math.pi)
        kept = min(max((turns - 1) / (4 - 1), 0.0), 1.0)
        assert scaled == pytest.approx(frequency * (kept + (1 - kept) / 8), rel=1e-5)
    assert torch.equal(found[:20], plain()[:20])
    assert torch.equal(found[-20:], plain()[-20:] / 8)


@pytest.mark.parametrize("whole_features", [True, False])
def test_yarn_ramps_from_what_turns_fast_to_what_turns_slowly(whole_features):
    scaling = YARN.model_copy(update={"whole_features": whole_features})
    found = rotary_frequencies(128, base=1_000_000.0, scaling=scaling)

    def feature(turns: float) -> float:  # whose frequency makes so many turns over the original positions
        return 64 * math.log(32768 / (2 * math.pi * turns)) / math.log(1_000_000.0)

    first, last = feature(32.0), feature(1.0)
    if whole_features:
        first, last = math.floor(first), math.ceil(last)
    for i, (frequency, scaled) in enumerate(zip(plain(1_000_000.0).tolist(), found.tolist(), strict=True)):
        slowed = min(max((i - first) / (last - first), 0.0), 1.0)
        assert scaled == pytest.approx(frequency * (1 - slowed + slowed / 4), rel=1e-5)


def test_a_yarn_ramp_without_room_is_a_step():
    scaling = YarnScaling(factor=4.0, original_positions=8, slow=3.0, fast=3.0, whole_features=False)
    found = rotary_frequencies(8, base=100.0, scaling=scaling) / rotary_frequencies(8, base=100.0)
    assert set(found.tolist()) <= {1.0, 0.25}


def test_yarn_lengthens_queries_and_keys_as_much_as_the_text_is_longer():
    assert attention_factor(YARN) == pytest.approx(0.1 * math.log(4) + 1)
    assert attention_factor(YARN.model_copy(update={"attention_factor": 0.8})) == 0.8
    assert attention_factor(LLAMA_3) == attention_factor(None) == 1.0
    rotary = RotaryPositions(config(positions="rotary", rope_scaling=YARN))
    x = torch.randn(1, 1, 1, 4)
    longer = rotate(x, rotary.rotation(torch.tensor([[5]]))).norm() / x.norm()
    assert float(longer) == pytest.approx(attention_factor(YARN), rel=1e-5)


def test_layers_with_a_window_may_turn_by_a_base_of_their_own_unscaled():
    own = RotaryPositions(config(positions="rotary", window=4, rope_scaling=YARN, window_rope_base=100.0))
    as_others = RotaryPositions(config(positions="rotary", window=4, rope_scaling=YARN))
    alone = RotaryPositions(config(positions="rotary", rope_base=100.0))
    at = torch.tensor([[3, 9]])
    for mine, theirs in [
        (own.rotation(at, windowed=True), alone.rotation(at)),
        (own.rotation(at), as_others.rotation(at)),
        (as_others.rotation(at, windowed=True), as_others.rotation(at)),
    ]:
        assert torch.equal(mine.cos, theirs.cos)
        assert torch.equal(mine.sin, theirs.sin)


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
