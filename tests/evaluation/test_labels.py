from __future__ import annotations

import random

import pytest

from ciyuan.errors import UserError
from ciyuan.evaluation import compare, evaluate_labels
from ciyuan.evaluation.scores import ConfusionMatrix, LabelScore

LABELS = ("civil", "criminal", "tax")


def plain_f1(given, wanted, label) -> float | None:
    right = sum(label in a and label in b for a, b in zip(given, wanted))
    wrong = sum(label in a and label not in b for a, b in zip(given, wanted))
    missed = sum(label not in a and label in b for a, b in zip(given, wanted))
    if not right + wrong + missed:
        return None
    if not right:
        return 0.0
    precision, recall = right / (right + wrong), right / (right + missed)
    return 2 * precision * recall / (precision + recall)


def drawn(n: int, most: int, seed: int) -> list[tuple[str, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.sample(LABELS, draw.randint(0, most) if most > 1 else 1)) for _ in range(n)]


@pytest.mark.parametrize("seed", range(4))
def test_one_label_each_by_hand(seed):
    given, wanted = drawn(17, 1, seed), drawn(17, 1, seed + 100)
    scores = evaluate_labels(given, wanted, LABELS)
    by_label = [f1 for label in LABELS if (f1 := plain_f1(given, wanted, label)) is not None]
    assert scores.metrics["macro_f1"] == pytest.approx(100 * sum(by_label) / len(by_label))
    assert scores.metrics["accuracy"] == pytest.approx(100 * sum(a == b for a, b in zip(given, wanted)) / 17)
    assert [one.f1 for one in scores.labels] == pytest.approx([100 * (plain_f1(given, wanted, x) or 0) for x in LABELS])
    assert scores.confusion is not None
    for i, row in enumerate(scores.confusion.counts):
        for j, count in enumerate(row):
            assert count == sum(b == (LABELS[i],) and a == (LABELS[j],) for a, b in zip(given, wanted))


@pytest.mark.parametrize("seed", range(4))
def test_several_labels_by_hand(seed):
    given, wanted = drawn(17, 3, seed), drawn(17, 3, seed + 100)
    scores = evaluate_labels(given, wanted, LABELS, multi_label=True)
    right = sum(len(set(a) & set(b)) for a, b in zip(given, wanted))
    n_given, n_wanted = sum(map(len, given)), sum(map(len, wanted))
    precision, recall = right / n_given, right / n_wanted
    assert scores.metrics["micro_f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert scores.metrics["accuracy"] == pytest.approx(100 * sum(set(a) == set(b) for a, b in zip(given, wanted)) / 17)
    assert scores.confusion is None


def test_a_label_that_does_not_occur_does_not_count_and_one_that_is_never_right_counts_as_0():
    scores = evaluate_labels([["civil"], ["tax"]], [["civil"], ["civil"]], LABELS)
    assert scores.metrics["macro_f1"] == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert scores.signatures["macro_f1"] == "mean over 2 labels"
    assert scores.labels == (
        LabelScore("civil", 100, 50, pytest.approx(200 / 3), 2), LabelScore("criminal", 0, 0, 0, 0), LabelScore("tax", 0, 0, 0, 0),
    )  # fmt: skip
    assert scores.confusion == ConfusionMatrix(LABELS, ((1, 0, 1), (0, 0, 0), (0, 0, 0)))
    assert [(row.reference, row.output) for row in scores.rows] == [("civil", "civil"), ("civil", "tax")]


def test_a_label_that_the_model_does_not_know_is_missed():
    scores = evaluate_labels([["civil"], ["civil"]], [["civil"], ["maritime"]], LABELS)
    assert scores.metrics["accuracy"] == 50
    assert scores.warnings == ("1 labels of the examples are unknown to the model",)
    assert scores.labels[-1] == LabelScore("maritime", 0, 0, 0, 1)


def test_exactly_one_label_is_demanded_unless_several_are_allowed():
    with pytest.raises(UserError, match="example 2 has 2 labels"):
        evaluate_labels([["civil"], ["tax"]], [["civil"], ["civil", "tax"]], LABELS)
    with pytest.raises(UserError, match="1 outputs for 2"):
        evaluate_labels([["civil"]], [["civil"], ["tax"]], LABELS)


@pytest.mark.parametrize("most", [1, 3])
def test_the_tallies_give_the_metrics(most):
    scores = evaluate_labels(drawn(30, most, 1), drawn(30, most, 2), LABELS, multi_label=most > 1)
    assert {name: tally.value for name, tally in scores.tallies().items()} == pytest.approx(scores.metrics)


def test_macro_f1_is_compared():
    wanted = drawn(60, 1, 1)
    found = compare(evaluate_labels(wanted, wanted, LABELS), evaluate_labels(drawn(60, 1, 2), wanted, LABELS))
    assert found["macro_f1"].better == "the first model"
