from __future__ import annotations

import pytest
import torch

from ciyuan.objectives import Prompted
from tests.model.builders import stream
from tests.objectives.builders import (
    assert_padding_is_nothing,
    assert_splits_agree,
    double,
    log_softmax,
    means,
    overfit,
    tiny,
)

EXAMPLES = [
    ([1, 5, 6, 7, 8, 2], [0, 0, 0, 0, 1, 1]),
    ([1, 9, 10, 2, 11, 12, 2, 5], [0, 0, 1, 1, 0, 1, 1, 0]),
    ([1, 4, 2], [1, 0, 1]),
]


def test_only_supervised_tokens_are_asked_for_and_the_end_among_them():
    batch = Prompted(pad_id=0).collate(EXAMPLES, numbers=[2, 0, 1])
    assert batch.text.tokens.tolist() == [[1, 5, 6, 7, 8, 0, 0], [1, 9, 10, 2, 11, 12, 2], [1, 4, 0, 0, 0, 0, 0]]
    nothing = -100
    assert batch.targets.tolist() == [
        [nothing, nothing, nothing, 8, 2, nothing, nothing],
        [nothing, 10, 2, nothing, 12, 2, nothing],
        [nothing, 2, nothing, nothing, nothing, nothing, nothing],
    ]
    assert (batch.count, batch.examples) == (7, (2, 0, 1))


def test_a_conversation_without_an_answer_asks_for_nothing():
    assert Prompted(pad_id=0).collate([([1, 5, 2], [0, 0, 0])]).count == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_equals_the_naive_loop(smoothing):
    model, asked = double("decoder"), Prompted(pad_id=0, label_smoothing=smoothing)
    expected = 0.0
    for text, supervised in EXAMPLES:
        for i in range(1, len(text)):
            if supervised[i]:
                with torch.no_grad():
                    logits = model.logits(model.hidden(stream(torch.tensor([text[:i]])))[0, -1])
                scores = log_softmax(logits.tolist())
                expected -= (1 - smoothing) * scores[text[i]] + smoothing * sum(scores) / len(scores)
    assert float(asked.loss(model, asked.collate(EXAMPLES)).sum.detach()) == pytest.approx(expected, rel=1e-9)


def test_splits_and_padding_change_nothing():
    assert_splits_agree(double("decoder"), Prompted(pad_id=0, label_smoothing=0.1), EXAMPLES)
    assert_padding_is_nothing(double("decoder"), Prompted(pad_id=0), EXAMPLES)


def test_it_overfits_one_batch():
    assert means(overfit(tiny("decoder"), Prompted(pad_id=0), EXAMPLES))["nll"] < 0.02
