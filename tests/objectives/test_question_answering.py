from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ciyuan.errors import RecipeError
from ciyuan.objectives import SpanAnswering, best_span, windows
from tests.objectives.builders import (
    assert_padding_is_nothing,
    assert_splits_agree,
    double,
    log_softmax,
    means,
    overfit,
    tiny,
)

PAD, UNK, MASK, CLS, SEP = range(5)
EXAMPLES = [
    ([5, 6], [10, 11, 12, 13], [1, 2]),
    ([7], [14, 15], []),
    ([8, 9], list(range(10, 22)), [8, 9]),
]
HEAD = {"head": "span", "n_token_types": 2}


def objective(**changes) -> SpanAnswering:
    return SpanAnswering(**{"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "max_length": 12, "stride": 3, **changes})


def test_a_question_and_its_passage_share_a_row():
    batch = objective().collate(EXAMPLES[:2], numbers=[8, 9])
    assert batch.text.tokens.tolist() == [
        [CLS, 5, 6, SEP, 10, 11, 12, 13, SEP],
        [CLS, 7, SEP, 14, 15, SEP, PAD, PAD, PAD],
    ]
    assert batch.text.token_types.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0, 0]]
    assert batch.targets.tolist() == [[5, 6], [0, 0]]
    assert batch.extra["allowed"].int().tolist() == [[1, 0, 0, 0, 1, 1, 1, 1, 0], [1, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert (batch.count, batch.examples) == (2, (8, 9))
    assert objective(token_types=False).collate(EXAMPLES).text.token_types is None


def test_a_long_passage_is_read_in_windows_that_know_only_their_own_answers():
    batch = objective().collate([EXAMPLES[2]])
    passages = [row[4:][row[4:] >= 10].tolist() for row in batch.text.tokens]
    assert passages == [list(range(10, 17)), list(range(14, 21)), list(range(18, 22))]
    assert batch.targets.tolist() == [[0, 0], [4 + 4, 4 + 5], [4 + 0, 4 + 1]]
    assert batch.count == 3
    assert batch.examples == (0,)


def test_each_answer_stands_whole_in_a_window_unless_it_is_longer_than_what_windows_share():
    asked, passage = objective(), list(range(10, 29))
    for first in range(19):
        for last in range(first, min(first + 3, 19)):
            batch = asked.collate([([5, 6], passage, [first, last])])
            found = [
                row[begin : end + 1].tolist()
                for row, (begin, end) in zip(batch.text.tokens, batch.targets.tolist(), strict=True)
                if (begin, end) != (0, 0)
            ]
            assert found
            assert all(answer == passage[first : last + 1] for answer in found)


def test_an_answer_that_a_window_cuts_off_is_none_of_its_own():
    batch = objective().collate([([5, 6], list(range(10, 22)), [5, 9])])
    assert batch.targets.tolist() == [[0, 0], [4 + 1, 4 + 5], [0, 0]]


def test_a_long_question_leaves_room_for_the_passage():
    asked = objective()
    assert asked.longest_question == 4
    batch = asked.collate([([5, 6, 7, 8, 9, 5, 6, 7], [10, 11], [0, 0])])
    assert batch.text.tokens.tolist() == [[CLS, 5, 6, 7, 8, SEP, 10, 11, SEP]]
    assert batch.targets.tolist() == [[6, 6]]


def test_an_empty_passage_holds_no_answer():
    batch = objective().collate([([5], [], [])])
    assert batch.text.tokens.tolist() == [[CLS, 5, SEP, SEP]]
    assert batch.targets.tolist() == [[0, 0]]


def test_windows_that_do_not_move_on_are_refused():
    with pytest.raises(RecipeError, match=r"objective\.stride: rows of 12 tokens.*\n?.*less than 5"):
        objective(stride=5)
    assert objective(stride=4).stride == 4
    with pytest.raises(ValueError, match="cannot share"):
        windows(10, 3, stride=3)


@pytest.mark.parametrize(("n", "room", "stride"), [(1, 5, 0), (5, 5, 4), (6, 5, 4), (23, 5, 2), (24, 7, 3), (0, 4, 1)])
def test_windows_cover_the_passage_and_none_is_needless(n, room, stride):
    found = windows(n, room, stride=stride)
    assert sorted({t for begin, end in found for t in range(begin, end)}) == list(range(n))
    assert all(end - begin <= room for begin, end in found)
    for (_, end), (begin, _) in itertools.pairwise(found):
        assert end - begin == stride
    assert [end for _, end in found].count(n) == 1


def test_the_loss_equals_the_naive_loop():
    model, asked = double("encoder", **HEAD), objective()
    batch = asked.collate(EXAMPLES)
    with torch.no_grad():
        scores = model(batch)
    loss, right = 0.0, 0
    for row, allowed, target in zip(scores, batch.extra["allowed"].tolist(), batch.targets.tolist(), strict=True):
        places = [t for t, open_ in enumerate(allowed) if open_]
        hit = True
        for side in (0, 1):
            values = [float(row[t, side]) for t in places]
            loss -= 0.5 * log_softmax(values)[places.index(target[side])]
            hit = hit and places[values.index(max(values))] == target[side]
        right += hit
    found = asked.loss(model, batch)
    assert float(found.sum.detach()) == pytest.approx(loss, rel=1e-9)
    assert float(found.metrics["nll"][0]) == pytest.approx(loss, rel=1e-9)
    assert (int(found.metrics["accuracy"][0]), found.count) == (right, 5)


def test_splits_and_padding_change_nothing():
    model = double("encoder", **HEAD)
    assert_splits_agree(model, objective(), EXAMPLES)
    assert_padding_is_nothing(model, objective(), EXAMPLES)


def test_it_overfits_one_batch():
    loss = means(overfit(tiny("encoder", **HEAD), objective(), EXAMPLES))
    assert loss["nll"] < 0.05
    assert loss["accuracy"] == 1


@pytest.mark.parametrize("max_answer", [1, 3, 20])
def test_the_best_span_equals_the_naive_search(max_answer):
    generator = torch.Generator().manual_seed(max_answer)
    start, end = torch.randn(2, 6, 9, generator=generator)
    allowed = torch.rand(6, 9, generator=generator) < 0.7
    found = best_span(start, end, allowed, max_answer=max_answer)
    for b in range(6):
        best = (-np.inf, 0, 0)
        for i in range(9):
            for j in range(i, min(9, i + max_answer)):
                if allowed[b, i] and allowed[b, j]:
                    best = max(best, (float(start[b, i] + end[b, j]), i, j))
        assert (float(found.score[b]), int(found.first[b]), int(found.last[b])) == best


def test_the_first_of_equal_spans_is_taken_and_none_has_no_score():
    zero, allowed = torch.zeros(2, 5), torch.tensor([[False, True, True, True, False], [False] * 5])
    found = best_span(zero, zero, allowed, max_answer=3)
    assert (int(found.first[0]), int(found.last[0]), float(found.score[0])) == (1, 1, 0.0)
    assert float(found.score[1]) == -torch.inf
