"""The arithmetic of a batch is that of its texts, padding left out."""

from __future__ import annotations

import pytest
import torch

from ciyuan.batch import IGNORED, Batch, Layout, Stream
from ciyuan.model.cost import Cost
from tests.model.builders import build


def side(*rows: list[int]) -> Stream:
    """Rows of so many tokens a text."""
    width = max(map(sum, rows))
    segments = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, sizes in zip(segments, rows):
        row[: sum(sizes)] = torch.repeat_interleave(torch.arange(len(sizes)) + 1, torch.tensor(sizes))
    return Stream(torch.ones_like(segments), Layout(torch.zeros_like(segments), segments))


@pytest.mark.parametrize("family", ["encoder", "decoder", "encoder-decoder"])
def test_a_batch_costs_what_its_texts_do(family: str) -> None:
    cost = Cost.of(build(family, "no positions relu2 untied"))
    text, source = side([3, 4], [5]), side([2, 6], [1]) if family == "encoder-decoder" else None
    targets = torch.where(text.layout.is_text, 1, IGNORED)
    sources = (2, 6, 1) if source is not None else (0, 0, 0)
    alone = sum(cost.of_text(length=n, source_length=m) for n, m in zip((3, 4, 5), sources))
    assert cost.of_batch(Batch(text, targets, 12, source=source)) == 3 * alone


def test_the_head_costs_only_where_something_is_asked() -> None:
    model = build("encoder", "no positions relu2 untied")
    cost, text = Cost.of(model), side([6])
    targets = torch.full_like(text.tokens, IGNORED)
    nothing = cost.of_batch(Batch(text, targets, 0))
    targets[0, 2] = 1
    one = cost.of_batch(Batch(text, targets, 1))
    assert one - nothing == 3 * 2 * model.config.vocab_size * model.config.d_model
