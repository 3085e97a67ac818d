from __future__ import annotations

import pytest
import torch

from ciyuan.batch import Layout
from ciyuan.model.attention import Sight, fused_attention, mask_of, may_attend, reference_attention
from tests.model.naive import naive_attention


def random_qkv(n_kv_heads: int, *, queries: int = 5, keys: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 4, queries, 6), (2, n_kv_heads, keys, 6), (2, n_kv_heads, keys, 6)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


PADDED = Layout.of_lengths([5, 3])
PACKED = Layout(torch.tensor([[0, 1, 2, 0, 1], [0, 1, 0, 1, 0]]), torch.tensor([[1, 1, 1, 2, 2], [1, 1, 2, 2, 0]]))


@pytest.mark.parametrize("layout", [PADDED, PACKED, Layout.whole(torch.zeros(2, 5, dtype=torch.long))])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("core", [reference_attention, fused_attention])
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("soft_cap", [None, 0.7])
def test_attention_equals_the_naive_sums_for_every_query_that_is_text(
    layout, causal, window, core, n_kv_heads, soft_cap
):
    q, k, v = random_qkv(n_kv_heads)
    allowed = may_attend(layout, layout, causal=causal, window=window)
    expected = naive_attention(q, k, v, scale=0.4, may_attend=allowed, soft_cap=soft_cap)
    mask, is_causal = mask_of(layout, layout, causal=causal, window=window)
    found = core(q, k, v, scale=0.4, sight=Sight(mask, is_causal), soft_cap=soft_cap)
    text = layout.is_text[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[text], expected[text], rtol=1e-12, atol=1e-12)


def test_the_rule_is_written_once_and_reads_as_the_design_says():
    layout = PACKED
    seen = may_attend(layout, layout, causal=True, window=2)
    for b in range(2):
        for i in range(5):
            for j in range(5):
                positions, segments = layout.positions[b], layout.segments[b]
                distance = int(positions[i] - positions[j])
                expected = bool(segments[i] == segments[j]) and distance >= 0 and abs(distance) < 2
                assert bool(seen[b, i, j]) == expected


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("n_kv_heads", [4, 1])
@pytest.mark.parametrize("soft_cap", [None, 0.7])
def test_fused_and_reference_agree_in_value_and_gradient(causal, with_bias, n_kv_heads, soft_cap):
    inputs = [x.requires_grad_() for x in random_qkv(n_kv_heads)]
    bias = torch.randn(1, 4, 5, 5, dtype=torch.float64, requires_grad=True) if with_bias else None
    mask = None if causal else PADDED.is_text[:, None, None, :]
    results = []
    for core in (reference_attention, fused_attention):
        out = core(*inputs, scale=0.4, sight=Sight(mask, causal, bias=bias), soft_cap=soft_cap)
        wanted = [*inputs, bias] if bias is not None else inputs
        results.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    for reference, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("source", [PADDED, PACKED])
@pytest.mark.parametrize("target", [Layout.of_lengths([2, 4]), PACKED])
def test_cross_attention_follows_the_same_rule(source, target):
    width = target.positions.shape[1]
    q, k, v = random_qkv(4, queries=width)
    allowed = may_attend(target, source, causal=False) | ~target.is_text[:, :, None]
    mask, causal = mask_of(target, source, causal=False)
    assert not causal
    found = fused_attention(q, k, v, scale=0.4, sight=Sight(mask))
    expected = naive_attention(q, k, v, scale=0.4, may_attend=allowed)
    text = target.is_text[:, None, :, None].expand_as(found)
    # A row whose target segment has no source at all has nothing to read; PACKED against PADDED has such rows.
    text = text & may_attend(target, source, causal=False).any(-1)[:, None, :, None]
    torch.testing.assert_close(found[text], expected[text], rtol=1e-12, atol=1e-12)


def test_the_fast_paths_are_taken_where_they_are_equal_to_the_rule():
    whole = Layout.whole(torch.zeros(2, 5, dtype=torch.long))
    assert mask_of(whole, whole, causal=True) == (None, True)
    assert mask_of(whole, whole, causal=False) == (None, False)
    assert mask_of(PADDED, PADDED, causal=True) == (None, True)
    mask, causal = mask_of(PADDED, PADDED, causal=False)
    assert mask is not None
    assert mask.shape == (2, 1, 1, 5)
    assert not causal
