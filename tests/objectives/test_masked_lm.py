from __future__ import annotations

import numpy as np
import pytest
import torch

from ciyuan.batch import IGNORED
from ciyuan.errors import RecipeError
from ciyuan.objectives import MaskedLM
from ciyuan.objectives.drawing import Draws
from ciyuan.objectives.masked_lm import chosen, span_shares
from tests.model.builders import stream
from tests.objectives.builders import (
    V,
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

PAD, UNK, MASK, CLS, SEP = range(5)
WORDS = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 1])
LONG = np.arange(5, 17)
LINES = [
    (piece(5, 6, 7), piece(8, 9, 10, 11)),
    (piece(*range(5, 25)),),
    (piece(12), piece(13, 14, 15), piece(5, 6)),
]


def objective(**changes) -> MaskedLM:
    settings = {
        "pad_id": PAD, "cls_id": CLS, "sep_id": SEP, "mask_id": MASK, "vocab_size": V, "special_ids": [PAD, UNK, MASK, CLS, SEP],
        "seed": 0,
    }  # fmt: skip
    return MaskedLM(**(settings | changes))


def restored(batch) -> torch.Tensor:
    return torch.where(batch.targets == IGNORED, batch.text.tokens, batch.targets)


def test_each_block_stands_between_its_markers_and_only_masked_positions_are_targets():
    batch = objective().collate(LINES, numbers=[7, 8, 9])
    assert texts_of(restored(batch), batch.text.layout) == [
        [[CLS, *block.tokens.tolist(), SEP] for block in line] for line in LINES
    ]
    for row in texts_of(batch.targets, batch.text.layout):
        for text in row:
            assert text[0] == text[-1] == IGNORED
            assert any(target != IGNORED for target in text)  # no block goes unasked
    assert batch.count == int((batch.targets != IGNORED).sum())
    assert batch.examples == (7, 8, 9)


def test_what_is_masked_is_a_function_of_seed_epoch_and_number():
    asked = objective(rate=0.4)
    one = asked.collate(LINES, numbers=[3, 4, 5], epoch=1)
    alone = asked.collate(LINES[1:2], numbers=[4], epoch=1)
    assert torch.equal(one.text.tokens[1, :22], alone.text.tokens[0])
    assert torch.equal(one.targets[1, :22], alone.targets[0])
    for other in (
        asked.collate(LINES, numbers=[3, 4, 5], epoch=2),
        asked.collate(LINES, numbers=[6, 7, 8], epoch=1),
        objective(rate=0.4, seed=1).collate(LINES, numbers=[3, 4, 5], epoch=1),
    ):
        assert not torch.equal(one.targets, other.targets)


def test_the_shares_are_those_of_the_paper():
    asked = objective()
    n, becomes_mask, becomes_random, stays = 0, 0, 0, 0
    places, replacements = np.zeros(20), np.zeros(V)
    tokens = np.arange(5, 25)
    for number in range(4000):
        masked = asked.mask(tokens, None, asked.draws(0, number))
        asked_for = masked.targets != IGNORED
        n += int(asked_for.sum())
        places += asked_for
        becomes_mask += int((masked.shown[asked_for] == MASK).sum())
        stays += int((masked.shown[asked_for] == tokens[asked_for]).sum())
        changed = masked.shown[asked_for & (masked.shown != MASK) & (masked.shown != tokens)]
        becomes_random += len(changed)
        replacements += np.bincount(changed, minlength=V)
        assert (masked.shown[~asked_for] == tokens[~asked_for]).all()
    assert n / (4000 * 20) == pytest.approx(0.15, abs=0.005)
    assert becomes_mask / n == pytest.approx(0.8, abs=0.02)
    assert stays / n == pytest.approx(0.1 + 0.1 / 25, abs=0.02)  # a random token may be the token itself
    assert becomes_random / n == pytest.approx(0.1 * 24 / 25, abs=0.02)
    assert ((places - n / 20) ** 2 / (n / 20)).sum() < 43.8  # χ² of 19 degrees of freedom, p = 0.001
    assert replacements[:5].sum() == 0  # a special token is never put in another's place
    assert (replacements[5:] > 0).all()


def test_whole_words_are_masked_or_not_at_all():
    asked = objective(units="words", rate=0.3, mask_share=1.0, random_share=0.0)
    starts = np.flatnonzero(WORDS)
    shares = []
    for number in range(400):
        masked = asked.mask(LONG, WORDS, asked.draws(0, number)).targets != IGNORED
        for word in np.split(masked, starts[1:]):
            assert word.all() or not word.any()
        shares.append(masked.mean())
    assert np.mean(shares) == pytest.approx(0.3, abs=0.02)
    assert asked.columns == ("text", "words")
    assert objective().columns == ("text",)


def test_a_word_that_a_block_cuts_in_two_is_masked_with_what_is_left_of_it():
    asked = objective(units="words", mask_share=1.0, random_share=0.0)
    words = np.array([0, 0, 1, 0])
    seen = {tuple((asked.mask([5, 6, 7, 8], words, asked.draws(0, i)).targets != IGNORED).tolist()) for i in range(50)}
    assert seen == {(True, True, False, False), (False, False, True, True)}
    assert words.tolist() == [0, 0, 1, 0]  # a view of the store is not written to


def test_special_tokens_in_a_text_are_not_asked_for_unless_there_is_nothing_else():
    asked = objective(rate=0.9)
    for number in range(50):
        targets = asked.mask([UNK, 5, UNK, 6], None, asked.draws(0, number)).targets
        assert targets[0] == targets[2] == IGNORED
    assert (asked.mask([UNK, UNK], None, asked.draws(0, 0)).targets == UNK).any()
    words = objective(units="words", rate=0.9)
    for number in range(50):
        assert words.mask([5, UNK, 6], [1, 0, 1], words.draws(0, number)).targets.tolist() == [IGNORED, IGNORED, 6]
    assert len(asked.mask([], None, asked.draws(0, 0)).targets) == 0


@pytest.mark.parametrize("mean", [1.0, 2.0, 3.0, 5.5])
def test_the_spans_have_the_mean_that_is_asked_for(mean):
    shares = span_shares(mean)
    assert len(shares) == 10
    assert shares.sum() == pytest.approx(1)
    assert shares @ np.arange(1, 11) == pytest.approx(mean, abs=1e-6)
    np.testing.assert_allclose(shares[1:] * shares[0], shares[:-1] * shares[1], atol=1e-12)  # geometric


def test_spans_that_cannot_be_are_refused():
    with pytest.raises(RecipeError, match=r"objective\.mean_span: spans of 6 tokens"):
        objective(units="spans", mean_span=6)


def test_spans_are_masked_as_runs():
    asked, single = objective(units="spans"), objective()
    tokens = np.arange(400) % 20 + 5

    def mean_run(one: MaskedLM) -> tuple[float, float]:
        runs, total = 0, 0
        for number in range(60):
            masked = one.mask(tokens, None, one.draws(0, number)).targets != IGNORED
            runs += int((np.diff(masked.astype(int), prepend=0) == 1).sum())
            total += int(masked.sum())
        return total / runs, total / (60 * 400)

    run, share = mean_run(asked)
    assert 2.8 < run < 4.2  # neighbouring spans run into one another
    assert share == pytest.approx(0.15, abs=0.005)
    assert mean_run(single)[0] < 1.4


def test_units_are_chosen_until_the_quota_is_used_up():
    lengths = np.array([3, 1, 2, 4])
    totals = [int(lengths[chosen(lengths, 4.5, Draws("test", i))].sum()) for i in range(3000)]
    assert np.mean(totals) == pytest.approx(4.5, abs=0.1)
    assert all(len(chosen(lengths, 0.1, Draws("test", i))) == 1 for i in range(20))
    assert sorted(chosen(lengths, 10.0, Draws("test", 0))) == [0, 1, 2, 3]


def test_the_loss_equals_the_naive_loop():
    model, asked = double("encoder"), objective(rate=0.4, label_smoothing=0.1)
    batch = asked.collate(LINES, numbers=[1, 2, 3])
    loss, nll, right = 0.0, 0.0, 0
    for shown, targets in zip(
        texts_of(batch.text.tokens, batch.text.layout), texts_of(batch.targets, batch.text.layout), strict=True
    ):
        for text, wanted in zip(shown, targets, strict=True):
            with torch.no_grad():
                logits = model.logits(model.hidden(stream(torch.tensor([text])))[0]).tolist()
            for scores, target in zip(map(log_softmax, logits), wanted, strict=True):
                if target != IGNORED:
                    loss -= 0.9 * scores[target] + 0.1 * sum(scores) / V
                    nll -= scores[target]
                    right += scores.index(max(scores)) == target
    found = asked.loss(model, batch)
    assert float(found.sum.detach()) == pytest.approx(loss, rel=1e-9)
    assert float(found.metrics["nll"][0]) == pytest.approx(nll, rel=1e-9)
    assert (int(found.metrics["accuracy"][0]), found.metrics["accuracy"][1]) == (right, batch.count)


def test_packed_blocks_do_not_see_one_another():
    model, asked = double("encoder", positions="rotary"), objective()
    batch = asked.collate(LINES[:1])
    n = int((batch.targets[0, :5] != IGNORED).sum())
    before = model(batch)
    batch.text.tokens[0, 1:4] = 20
    after = model(batch)
    assert not torch.allclose(before[:n], after[:n])
    torch.testing.assert_close(before[n:], after[n:], rtol=1e-12, atol=1e-12)


def test_splits_and_padding_change_nothing():
    assert_splits_agree(double("encoder"), objective(rate=0.4, label_smoothing=0.1), LINES)
    assert_padding_is_nothing(double("encoder"), objective(rate=0.4), LINES)


def test_it_overfits_one_batch():
    loss = means(overfit(tiny("encoder"), objective(), LINES))
    assert loss["nll"] < 0.05
    assert loss["accuracy"] == 1


def test_the_rate_moves_in_a_straight_line_from_its_start_to_its_end():
    asked = objective(rate=0.5, rate_end=0.1)
    line = [(piece(*([7] * 400)),)]

    def masked(**at) -> float:
        return np.mean([asked.collate(line, numbers=[n], **at).count for n in range(40)]) / 400

    found = [masked(progress=p) for p in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.1], abs=0.01)
    assert masked() == found[-1]  # whoever looks from outside a run sees its end
    assert asked.moves
    assert not objective().moves
