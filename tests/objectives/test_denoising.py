from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ciyuan.batch import IGNORED
from ciyuan.objectives import Denoising
from ciyuan.objectives.drawing import Draws
from tests.model.builders import stream
from tests.objectives.builders import (
    assert_padding_is_nothing,
    assert_splits_agree,
    double,
    log_softmax,
    means,
    overfit,
    piece,
    texts_of,
    tiny,
)

SENTINELS = [29, 28, 27, 26]
LINES = [
    (piece(5, 6, 7, 8, 9, 10, 11, 12), piece(13, 14)),
    (piece(15),),
    (piece(5, 7, 9, 11, 13), piece(6, 8), piece(10, 12, 14)),
]


def objective(**changes) -> Denoising:
    settings = {
        "pad_id": 0,
        "start_id": 1,
        "eos_id": 2,
        "sentinel_ids": SENTINELS,
        "seed": 0,
        "rate": 0.3,
        "mean_span": 2.0,
    }
    return Denoising(**(settings | changes))


def filled(source: list[int], target: list[int]) -> list[int]:
    """The source with the holes filled from the target."""
    assert source[-1] == target[-1] == 2
    holes: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            sentinel = token
            holes[sentinel] = []
        else:
            holes[sentinel].append(token)
    assert all(holes.values()), "a hole that holds nothing"
    assert list(holes) == SENTINELS[: len(holes)]
    assert [token for token in source if token in SENTINELS] == list(holes)
    return [t for token in source[:-1] for t in holes.get(token, [token])]


@given(
    st.lists(st.integers(3, 20), min_size=1, max_size=40), st.floats(0.01, 0.99), st.floats(1, 6), st.integers(0, 99)
)
def test_the_target_fills_the_holes_of_the_source(tokens, rate, mean_span, number):
    asked = objective(rate=rate, mean_span=mean_span)
    batch = asked.collate([(piece(*tokens),)], numbers=[number])
    source, target = batch.source.tokens[0].tolist(), batch.targets[0].tolist()
    assert filled(source, target) == tokens
    assert batch.text.tokens[0].tolist() == [1, *target[:-1]]
    hidden = len([token for token in target if token in tokens])
    assert hidden >= 1
    assert hidden < len(tokens) or len(tokens) == 1
    between = itertools.pairwise(source)
    assert not any(a in SENTINELS and b in SENTINELS for a, b in between)  # two holes side by side would be one


def test_the_share_of_holes_and_their_length_are_as_asked():
    asked = objective(rate=0.15, mean_span=3.0, sentinel_ids=range(1000, 1100))
    tokens = np.arange(100) + 3
    places = np.zeros(100)
    holes = 0
    for number in range(1500):
        source, _ = asked.corrupt(tokens, Draws("denoise", number))
        places[np.setdiff1d(tokens, source) - 3] += 1
        holes += int((source >= 1000).sum())
    assert places.sum() / 150_000 == pytest.approx(0.15, abs=0.002)
    assert places.sum() / holes == pytest.approx(3.0, abs=0.05)
    assert places[10:-10].min() > 0.7 * places.mean()
    assert places[10:-10].max() < 1.4 * places.mean()
    assert places[[0, -1]].min() > 0.2 * places.mean()  # rarer at the ends, where no hole comes in from outside
    assert places[0] == pytest.approx(places[-1], rel=0.35)


def test_there_are_never_more_holes_than_sentinels():
    asked = objective(rate=0.5, mean_span=1.0, sentinel_ids=SENTINELS[:2])
    source, target = asked.corrupt(np.arange(3, 23), Draws("denoise", 0))
    assert filled(source.tolist(), target.tolist()) == list(range(3, 23))


def test_an_empty_text_is_only_its_end():
    source, target = objective().corrupt([], Draws("denoise", 0))
    assert source.tolist() == target.tolist() == [2]


def test_what_is_hidden_is_a_function_of_seed_epoch_and_number():
    asked = objective()
    one = asked.collate(LINES, numbers=[3, 4, 5], epoch=1)
    alone = asked.collate(LINES[2:], numbers=[5], epoch=1)
    assert texts_of(one.source.tokens, one.source.layout)[2] == texts_of(alone.source.tokens, alone.source.layout)[0]
    for other in (
        asked.collate(LINES, numbers=[3, 4, 5], epoch=2),
        asked.collate(LINES, numbers=[6, 7, 8], epoch=1),
        objective(seed=1).collate(LINES, numbers=[3, 4, 5], epoch=1),
    ):
        assert texts_of(one.targets, one.text.layout) != texts_of(other.targets, other.text.layout)


def test_every_target_ends_in_a_supervised_end():
    batch = objective().collate(LINES)
    for row in texts_of(batch.targets, batch.text.layout):
        assert all(text[-1] == 2 for text in row)
    assert batch.count == int((batch.targets != IGNORED).sum())


def test_the_loss_of_packed_rows_equals_the_naive_loop_over_texts():
    model, asked = double("encoder-decoder", positions="relative"), objective()
    batch = asked.collate(LINES)
    expected = 0.0
    for sources, targets in zip(
        texts_of(batch.source.tokens, batch.source.layout), texts_of(batch.targets, batch.text.layout), strict=True
    ):
        for source, target in zip(sources, targets, strict=True):
            side = stream(torch.tensor([source]))
            with torch.no_grad():
                memory = model.encode(side)
                for i, token in enumerate(target):
                    text = stream(torch.tensor([[1, *target[:i]]]))
                    hidden = model.hidden(text, memory=memory, memory_layout=side.layout)
                    expected -= log_softmax(model.logits(hidden[0, -1]).tolist())[token]
    assert float(asked.loss(model, batch).sum.detach()) == pytest.approx(expected, rel=1e-9)


def test_splits_and_padding_change_nothing():
    assert_splits_agree(double("encoder-decoder"), objective(label_smoothing=0.1), LINES)
    assert_padding_is_nothing(double("encoder-decoder"), objective(), LINES)


def test_it_overfits_one_batch():
    assert means(overfit(tiny("encoder-decoder"), objective(), LINES, steps=100))["nll"] < 0.05
