from __future__ import annotations

import math

import pytest
import torch

from ciyuan.model.config import ModelConfig
from ciyuan.model.layers import ACTIVATIONS, Dropout, FeedForward, build_norm, soft_capped


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.03])
def test_dropout_drops_at_its_rate_keeps_the_mean_and_hides_the_same_features_from_the_gradient(rate):
    torch.manual_seed(1)
    x = torch.ones(400, 501, requires_grad=True)
    out = Dropout(rate)(x)
    dropped = out == 0
    n = x.numel()
    assert float(dropped.float().mean()) == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / n))
    kept = out[~dropped].detach()
    assert float(kept.std()) < 1e-5
    assert float(kept[0]) == pytest.approx(1 / (1 - rate), rel=1e-4)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_drops_each_feature_on_its_own():
    torch.manual_seed(2)
    dropped = (Dropout(0.5)(torch.ones(2000, 8)) == 0).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.1


def test_dropout_is_the_identity_in_evaluation_and_repeats_with_its_seed():
    x = torch.randn(3, 7)
    assert Dropout(0.5).eval()(x) is x
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(x), first)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_feed_forward_layer_equals_its_formula(activation, gated):
    formulas = {
        "relu": lambda x: max(0.0, x),
        "relu2": lambda x: max(0.0, x) ** 2,
        "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x / (1 + math.exp(-x)),
    }
    config = ModelConfig(
        family="encoder", vocab_size=5, d_model=6, n_heads=2, d_ff=7, activation=activation, gated=gated, dropout=0.0
    )
    layer = FeedForward(config, 7).double()
    x = torch.randn(6, dtype=torch.float64)
    f = formulas[activation]

    def linear(part: torch.nn.Linear, values: list[float]) -> list[float]:
        rows = zip(part.weight.tolist(), part.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in rows]

    hidden = linear(layer.up, x.tolist())
    if gated:
        hidden = [f(g) * h for g, h in zip(linear(layer.gate, x.tolist()), hidden, strict=True)]
    else:
        hidden = [f(h) for h in hidden]
    assert layer(x).tolist() == pytest.approx(linear(layer.down, hidden), rel=1e-9)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_norms_equal_their_formulas(norm):
    config = ModelConfig(family="encoder", vocab_size=5, norm=norm, norm_eps=0.01)
    layer = build_norm(config, 5).double()
    x = [0.5, -2.0, 3.0, 0.0, 1.0]
    mean = sum(x) / 5 if norm == "layer" else 0.0
    variance = sum((v - mean) ** 2 for v in x) / 5
    expected = [(v - mean) / math.sqrt(variance + 0.01) for v in x]
    assert layer(torch.tensor(x, dtype=torch.float64)).tolist() == pytest.approx(expected, rel=1e-9)
    bare = build_norm(config.model_copy(update={"norm_weight": False}), 5)
    assert not list(bare.parameters())
    assert torch.equal(bare(torch.tensor(x, dtype=torch.float64)), layer(torch.tensor(x, dtype=torch.float64)))


def test_a_norms_weights_may_be_stored_without_their_offset():
    fields = {"family": "encoder", "vocab_size": 5, "norm": "rms", "norm_eps": 0.01}
    plain = build_norm(ModelConfig(**fields), 5)
    offset = build_norm(ModelConfig(**fields, norm_offset=1.0), 5)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert offset.weight.tolist() == [0.0] * 5
    assert torch.equal(offset(x), plain(x))
    with torch.no_grad():
        offset.weight.copy_(torch.linspace(-0.5, 0.25, 5))
        plain.weight.copy_(torch.linspace(0.5, 1.25, 5))
    torch.testing.assert_close(offset(x), plain(x), rtol=1e-6, atol=1e-6)


def test_an_offset_keeps_in_sixteen_bits_what_a_sum_would_round_away():
    offset = build_norm(ModelConfig(family="encoder", vocab_size=5, norm="rms", norm_offset=1.0), 4).bfloat16()
    with torch.no_grad():
        offset.weight.fill_(0.001)
    x = torch.full((1, 4), 128.0, dtype=torch.bfloat16)
    assert torch.equal((offset.weight + 1), torch.ones(4, dtype=torch.bfloat16))
    assert torch.equal(offset(x * x.sign()), torch.tensor(1.001).bfloat16().expand(1, 4))
    assert offset(x).dtype == torch.bfloat16


def test_soft_caps_are_never_passed_and_are_felt_only_by_what_is_large():
    x = torch.tensor([0.01, -3.0, 50.0, -1e4], dtype=torch.float64)
    assert soft_capped(x, None) is x
    assert soft_capped(x, 5.0).tolist() == pytest.approx([5 * math.tanh(v / 5) for v in x.tolist()], rel=1e-12)
    assert float(soft_capped(x, 5.0).abs().max()) <= 5.0
