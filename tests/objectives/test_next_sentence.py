from __future__ import annotations

import numpy as np
import pytest
import torch

from ciyuan.batch import IGNORED
from ciyuan.data.sentence_pairs import Segment
from ciyuan.objectives import Jointly, MaskedLM, NextSentence
from ciyuan.objectives.next_sentence import FOLLOWS, RANDOM
from tests.objectives.builders import (
    V,
    assert_padding_is_nothing,
    assert_splits_agree,
    double,
    log_softmax,
    means,
    overfit,
    tiny,
)

PAD, UNK, MASK, CLS, SEP = range(5)


def segment(*tokens: int) -> Segment:
    return Segment(np.array(tokens, dtype=np.uint16))


OTHERS = [segment(20, 21), segment(22, 23, 24), segment(25)]


def others(k: int) -> Segment:
    return OTHERS[k % len(OTHERS)]


EXAMPLES = [
    (segment(5, 6, 7), segment(8, 9), others),
    (segment(10), segment(11, 12, 13, 14), others),
    (segment(15, 16), segment(17, 18), others),
    (segment(5, 8, 11), segment(14, 17), others),
]
HEADS = {"pooler": True, "next_sentence": True, "n_token_types": 2}


def question(**changes) -> NextSentence:
    return NextSentence(**{"pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "seed": 0, **changes})


def masked(**changes) -> MaskedLM:
    settings = {
        "pad_id": PAD,
        "cls_id": CLS,
        "sep_id": SEP,
        "mask_id": MASK,
        "vocab_size": V,
        "special_ids": [UNK],
        "seed": 0,
    }
    return MaskedLM(**(settings | {"rate": 0.4} | changes))


def both(weight: float = 2.5, **changes) -> Jointly:
    return Jointly(masked(**changes), question(), weight=weight)


def restored(batch) -> torch.Tensor:
    return torch.where(batch.targets == IGNORED, batch.text.tokens, batch.targets)


@pytest.mark.parametrize("asked", [question(), both()], ids=["alone", "jointly"])
def test_the_second_part_is_the_true_one_where_the_label_says_so(asked):
    numbers = list(range(4))
    for epoch in range(6):
        batch = asked.collate(EXAMPLES, numbers=numbers, epoch=epoch)
        rows = zip(restored(batch), batch.text.token_types, batch.text.layout.is_text, strict=True)
        for (first, second, _), label, (tokens, types, text) in zip(
            EXAMPLES, batch.extra["next_sentence"].tolist(), rows, strict=True
        ):
            shown = tokens[text].tolist()
            tail = shown[len(first.tokens) + 2 : -1]
            assert shown == [CLS, *first.tokens.tolist(), SEP, *tail, SEP]
            assert types[text].tolist() == [0] * (len(first.tokens) + 2) + [1] * (len(tail) + 1)
            if label == FOLLOWS:
                assert tail == second.tokens.tolist()
            else:
                assert label == RANDOM
                assert tail in [other.tokens.tolist() for other in OTHERS]


def test_half_of_the_pairs_are_true_and_partners_vary():
    asked = question()
    labels, partners = [], []
    for epoch in range(500):
        for pair in asked.pairs(EXAMPLES, numbers=range(4), epoch=epoch):
            labels.append(pair.label)
            if pair.label == RANDOM:
                partners.append(tuple(pair.second.tokens))
    assert np.mean(labels) == pytest.approx(0.5, abs=0.04)
    counts = np.array([partners.count(tuple(other.tokens)) for other in OTHERS])
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 13.9  # χ² of 2 degrees of freedom, p = 0.001


def test_what_is_drawn_is_a_function_of_seed_epoch_and_number():
    asked = both()
    one = asked.collate(EXAMPLES, numbers=[3, 4, 5, 6], epoch=1)
    alone = asked.collate(EXAMPLES[2:3], numbers=[5], epoch=1)
    width = alone.text.tokens.shape[1]
    assert torch.equal(one.text.tokens[2, :width], alone.text.tokens[0])
    assert torch.equal(one.targets[2, :width], alone.targets[0])
    assert int(one.extra["next_sentence"][2]) == int(alone.extra["next_sentence"][0])
    labels = {tuple(asked.collate(EXAMPLES, epoch=epoch).extra["next_sentence"].tolist()) for epoch in range(10)}
    assert len(labels) > 3


def test_words_are_masked_as_a_whole_in_both_parts():
    words = np.array([1, 0, 0])
    part = Segment(np.array([5, 6, 7]), words)
    asked = both(units="words")
    batch = asked.collate([(part, part, lambda k: part)] * 4)
    for row in batch.targets.tolist():
        for begin in (1, 5):
            assert row[begin : begin + 3] == [5, 6, 7]
    assert asked.columns == ("text", "words", "document")


def test_the_loss_equals_the_naive_loop():
    model, asked = double("encoder", **HEADS), both(weight=2.5)
    batch = asked.collate(EXAMPLES)
    with torch.no_grad():
        hidden = model.hidden(batch.text)
        words = model.logits(hidden).tolist()
        pooled = model.next_sentence(model.pooler(hidden)).tolist()
    mlm, nsp, right, guessed = 0.0, 0.0, 0, 0
    for b, row in enumerate(batch.targets.tolist()):
        label = int(batch.extra["next_sentence"][b])
        nsp -= log_softmax(pooled[b])[label]
        right += pooled[b].index(max(pooled[b])) == label
        for t, target in enumerate(row):
            if target != IGNORED:
                mlm -= log_softmax(words[b][t])[target]
                guessed += words[b][t].index(max(words[b][t])) == target
    loss = asked.loss(model, batch)
    assert float(loss.sum.detach()) == pytest.approx(mlm + 2.5 * nsp, rel=1e-9)
    assert loss.count == batch.count == int((batch.targets != IGNORED).sum())
    found = {name: (float(value), count) for name, (value, count) in loss.metrics.items()}
    assert found == {
        "mlm_nll": (pytest.approx(mlm), batch.count),
        "mlm_accuracy": (guessed, batch.count),
        "nsp_nll": (pytest.approx(nsp), 4),
        "nsp_accuracy": (right, 4),
    }
    alone = question().loss(model, question().collate(EXAMPLES))
    assert alone.count == 4
    assert float(alone.metrics["nsp_nll"][0]) == float(alone.sum.detach())


def test_splits_and_padding_change_nothing():
    assert_splits_agree(double("encoder", **HEADS), both(), EXAMPLES)
    assert_padding_is_nothing(double("encoder", **HEADS), both(), EXAMPLES)
    assert_padding_is_nothing(double("encoder", **HEADS), question(), EXAMPLES)


def test_it_overfits_one_batch():
    asked = both(weight=Jointly.weight_of(masked(), mean_length=6))
    assert asked.weight == pytest.approx(2.4)
    loss = means(overfit(tiny("encoder", **HEADS), asked, EXAMPLES, steps=120))
    assert loss["mlm_nll"] < 0.05
    assert loss["nsp_nll"] < 0.05
    assert loss["mlm_accuracy"] == loss["nsp_accuracy"] == 1
