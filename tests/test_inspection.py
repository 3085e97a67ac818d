"""What is counted of a model agrees with counting it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ciyuan.batch import Layout, Stream
from ciyuan.errors import UserError
from ciyuan.inspection import activations, flops, memory, memory_at, parameters_by_part
from ciyuan.model import Transformer
from ciyuan.model.attention import Attention, reference_attention
from tests.model.builders import VARIANTS, build


def counted(model: Transformer, length: int, source_length: int) -> int:
    """By torch, as it meets each matrix product of the readable core."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.core = reference_attention
    text, source = (torch.zeros(1, n, dtype=torch.int64) for n in (length, source_length))
    layouts = Layout.whole(text), Layout.whole(source)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        memory = layout = None
        if model.config.family == "encoder-decoder":
            memory, layout = model.encode(Stream(source, layouts[1])), layouts[1]
        model.logits(model.hidden(Stream(text, layouts[0]), memory=memory, memory_layout=layout))
    return counter.get_total_flops()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_flops_are_those_that_torch_counts(family: str, variant: str) -> None:
    model = build(family, variant)
    assert flops(model, length=5, source_length=7) == counted(model, 5, 7)


def test_the_parts_are_all_the_parameters() -> None:
    model = build("encoder-decoder", "no positions relu2 untied")
    assert sum(parameters_by_part(model).values()) == sum(parameter.numel() for parameter in model.parameters())


def test_memory_counts_what_is_kept() -> None:
    model = build("decoder", "pre-norm rotary grouped q/k-norm gated").float()
    n = sum(parameter.numel() for parameter in model.parameters())
    cache = model.new_cache()
    text = torch.zeros(1, 3, dtype=torch.int64)
    with torch.no_grad():
        model.hidden(Stream(text, Layout.whole(text)), cache=cache)
    kept = 0
    for past in cache.past:
        for buffer in (past.keys, past.values):
            assert buffer is not None
            kept += buffer[:, :, : past.length].numel() * 4
    assert memory(model) == {"inference": 4 * n, "training": 16 * n, "cache_per_token": kept // 3}


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_memory_at_a_length_is_weights_cache_and_what_a_pass_keeps(family: str) -> None:
    model = build(family, "pre-norm rotary grouped q/k-norm gated").float()
    n = sum(parameter.numel() for parameter in model.parameters())
    at = memory_at(model, length=6, dtype="bf16")
    cache, text = model.new_cache(), Stream(torch.zeros(1, 6, dtype=torch.int64), Layout.whole(torch.zeros(1, 6)))
    with torch.no_grad():
        read = None if family == "decoder" else model.encode(text)
        model.hidden(text, memory=read, memory_layout=None if read is None else text.layout, cache=cache)
    kept = [past for past in (*cache.past, *cache.cross) if past.keys is not None]
    numbers = sum(2 * past.keys[:, :, : past.length].numel() for past in kept if past.keys is not None)
    assert at["cache"] == 2 * numbers
    assert at["inference"] == 2 * n + at["cache"]
    assert at["training"] == 16 * n + at["activations"]
    assert memory_at(model, length=6, dtype="fp16")["training"] is None
    with pytest.raises(UserError, match="at most 32"):
        memory_at(model, length=33)


def test_what_a_pass_keeps_is_what_autograd_kept() -> None:
    """Of one layer by hand: a linear layer keeps its input, and nothing is counted twice or of the weights."""
    model = build("encoder", "no positions relu2 untied", n_layers=1).float()
    small, middle, large = (activations(model, length=length) for length in (4, 8, 12))
    assert middle - small == large - middle > 0
    d_model, d_ff = model.config.d_model, model.config.d_ff
    assert middle - small > 4 * 4 * (
        5 * d_model + 2 * d_ff
    )  # inputs of q k v, q, k, v, mixed heads, inputs of up and down
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
