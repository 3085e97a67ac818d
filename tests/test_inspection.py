"""What is counted of a model agrees with counting it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ciyuan.batch import Layout, Stream
from ciyuan.inspection import flops, memory, parameters_by_part
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
