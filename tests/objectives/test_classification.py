from __future__ import annotations

import math

import pytest
import torch

from ciyuan.errors import DataError
from ciyuan.objectives import Classification, balanced_weights
from tests.objectives.builders import (
    assert_padding_is_nothing,
    assert_splits_agree,
    double,
    log_softmax,
    means,
    overfit,
    tiny,
)

SINGLE = [([5, 6, 7], [0]), ([8], [2]), ([9, 10], [1]), ([5, 6, 8], [2])]
SEVERAL = [([5, 6, 7], [0, 2]), ([8], []), ([9, 10], [1])]
PAIRS = [([5, 6], [7], [0]), ([8], [9, 10, 11], [1]), ([5], [5], [2])]
HEAD = {"head": "classification", "n_labels": 3}


def objective(**changes) -> Classification:
    return Classification(**{"pad_id": 0, "head_id": 1, "tail_id": 2, "n_labels": 3, **changes})


def test_a_text_stands_between_its_markers():
    batch = objective().collate(SINGLE, numbers=[3, 1, 2, 0])
    assert batch.text.tokens.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0], [1, 9, 10, 2, 0], [1, 5, 6, 8, 2]]
    assert batch.targets.tolist() == [0, 2, 1, 2]
    assert (batch.count, batch.examples, batch.text.token_types) == (4, (3, 1, 2, 0), None)


def test_a_pair_has_a_marker_after_each_and_token_types():
    asked = objective(pairs=True, token_types=True)
    batch = asked.collate(PAIRS)
    assert batch.text.tokens.tolist() == [[1, 5, 6, 2, 7, 2, 0], [1, 8, 2, 9, 10, 11, 2], [1, 5, 2, 5, 2, 0, 0]]
    assert batch.text.token_types.tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]
    assert asked.columns == ("text", "second", "label")
    assert objective().columns == ("text", "label")


def test_roberta_parts_a_pair_by_two_markers():
    asked = objective(pairs=True, between=[2, 2])
    assert asked.collate(PAIRS).text.tokens.tolist() == [
        [1, 5, 6, 2, 2, 7, 2, 0], [1, 8, 2, 2, 9, 10, 11, 2], [1, 5, 2, 2, 5, 2, 0, 0],
    ]  # fmt: skip
    assert [asked.n_markers, objective(pairs=True).n_markers, objective().n_markers] == [4, 3, 2]
    assert objective(between=[2, 2]).row([5])[0].tolist() == [1, 5, 2]


def test_markers_that_the_vocabulary_has_not_are_left_out():
    batch = objective(head_id=None).collate(SINGLE)
    assert batch.text.tokens[1].tolist() == [8, 2, 0, 0]


def test_several_labels_are_a_row_of_ones():
    assert objective(multi_label=True).collate(SEVERAL).targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("label", [[], [0, 1]])
def test_a_row_without_exactly_one_label_is_refused(label):
    with pytest.raises(DataError, match=f"example 6 has {len(label)} labels, not one; set data.multi_label: true"):
        objective().collate([([5], label)], numbers=[6])


def test_a_label_that_there_is_not_is_refused():
    with pytest.raises(DataError, match="example 0 has label 3"):
        objective(multi_label=True).collate([([5], [1, 3])])


def scores_of(model, batch) -> list[list[float]]:
    with torch.no_grad():
        return model(batch).tolist()


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_the_loss_of_one_label_equals_the_naive_loop(family):
    weights = [0.5, 2.0, 1.25]
    model, asked = double(family, **HEAD), objective(class_weights=weights, label_smoothing=0.3)
    batch = asked.collate(SINGLE)
    loss, nll, right = 0.0, 0.0, 0
    for row, label in zip(scores_of(model, batch), batch.targets.tolist(), strict=True):
        scores = log_softmax(row)
        loss -= weights[label] * (0.7 * scores[label] + 0.3 * sum(scores) / 3)
        nll -= scores[label]
        right += row.index(max(row)) == label
    found = asked.loss(model, batch)
    assert float(found.sum.detach()) == pytest.approx(loss, rel=1e-9)
    assert (float(found.metrics["nll"][0]), found.metrics["nll"][1]) == (pytest.approx(nll, rel=1e-9), 4)
    assert (int(found.metrics["accuracy"][0]), found.count) == (right, 4)
    assert float(asked.loss(model.eval(), batch).sum.detach()) == pytest.approx(nll, rel=1e-9)


def test_the_loss_of_several_labels_equals_the_naive_loop():
    weights = [0.5, 2.0, 1.25]
    model, asked = double("encoder", **HEAD), objective(multi_label=True, class_weights=weights, label_smoothing=0.2)
    batch = asked.collate(SEVERAL)
    loss, nll, right = 0.0, 0.0, 0
    for row, wanted in zip(scores_of(model, batch), batch.targets.tolist(), strict=True):
        for score, present, weight in zip(row, wanted, weights, strict=True):
            yes, no = -math.log(1 + math.exp(-score)), -math.log(1 + math.exp(score))
            p = 0.9 if present else 0.1
            loss -= weight * (p * yes + (1 - p) * no)
            nll -= yes if present else no
        right += [score > 0 for score in row] == [bool(present) for present in wanted]
    found = asked.loss(model, batch)
    assert float(found.sum.detach()) == pytest.approx(loss, rel=1e-9)
    assert float(found.metrics["nll"][0]) == pytest.approx(nll, rel=1e-9)
    assert int(found.metrics["accuracy"][0]) == right


def test_balanced_weights_are_one_on_average_and_even_out_the_labels():
    counts = [90, 9, 1, 0]
    weights = balanced_weights(counts)
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) == pytest.approx(100)
    assert [w * n for w, n in zip(weights, counts, strict=True)] == [pytest.approx(100 / 3)] * 3 + [0]


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_splits_and_padding_change_nothing(family):
    model = double(family, **HEAD)
    assert_splits_agree(model, objective(class_weights=[0.5, 2.0, 1.25], label_smoothing=0.1), SINGLE)
    assert_splits_agree(model, objective(multi_label=True), SEVERAL)
    assert_padding_is_nothing(model, objective(), SINGLE)
    assert_padding_is_nothing(model, objective(pairs=True), PAIRS)


def test_it_overfits_one_batch():
    one = overfit(tiny("encoder", **HEAD), objective(), SINGLE, steps=60)
    assert means(one) == {"nll": pytest.approx(0, abs=0.05), "accuracy": 1}
    several = overfit(tiny("decoder", **HEAD), objective(multi_label=True), SEVERAL, steps=60)
    assert means(several) == {"nll": pytest.approx(0, abs=0.1), "accuracy": 1}
    pairs = objective(pairs=True, token_types=True)
    assert means(overfit(tiny("encoder", n_token_types=2, **HEAD), pairs, PAIRS, steps=60))["nll"] < 0.05
