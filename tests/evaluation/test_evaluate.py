from __future__ import annotations

import math

import pytest

from ciyuan.evaluation import dev_loss, evaluate_translator
from ciyuan.evaluation.evaluate import translation_loss
from ciyuan.generation import DecodingSettings, decoding, translate
from ciyuan.objectives.seq2seq import Seq2Seq
from tests.model.builders import build


class Digits:
    """A tokeniser of numbers written in words of one letter: "c" is 3, "d" 4, …"""

    reads_only = False

    def encode_batch(self, texts):
        return [[ord(letter) - ord("a") + 1 for letter in text] for text in texts]

    def decode(self, ids):
        return "".join(chr(i - 1 + ord("a")) for i in ids)


PAIRS = [("cdef", "gh"), ("c", "dddd"), ("ghijklm", "opqrst"), ("uu", "c"), ("edcde", "fgfgf")]


@pytest.fixture
def model():
    return build("encoder-decoder", "pre-norm sinusoidal tensor2tensor", dropout=0.3)


def objective(**changes):
    return Seq2Seq(pad_id=0, start_id=1, eos_id=2, **changes)


def naive_nll(model) -> tuple[float, int]:
    total, count = 0.0, 0
    for source, target in zip(*(Digits().encode_batch(side) for side in zip(*PAIRS))):
        next_log_probs = decoding.scorer(model, [*source, 2])
        for i, token in enumerate([*target, 2]):
            total -= float(next_log_probs(target[:i])[token])
            count += 1
    return total, count


def test_the_dev_loss_is_the_mean_over_tokens_however_it_is_batched(model):
    examples = list(zip(*(Digits().encode_batch(side) for side in zip(*PAIRS))))
    total, count = naive_nll(model)
    for size in (1, 2, 5):
        batches = (objective().collate(examples[i : i + size]) for i in range(0, 5, size))
        found = dev_loss(model, objective(), batches)
        assert found["nll"] == pytest.approx(total / count, abs=1e-9)
        assert found["loss"] == found["nll"]


def test_the_dev_loss_is_without_dropout_and_smoothing_and_leaves_the_mode(model):
    batch = objective().collate([([3, 4], [5, 6])])
    plain = dev_loss(model, objective(), [batch])
    model.train()
    assert dev_loss(model, objective(label_smoothing=0.2), [batch]) == plain
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_translator_is_evaluated_by_what_translate_writes(model):
    settings = DecodingSettings(beam=2)
    scores = evaluate_translator(model, Digits(), PAIRS, source="xx", target="en", settings=settings)
    written = translate(model, Digits(), [source for source, _ in PAIRS], settings=settings)
    assert [(row.source, row.reference) for row in scores.rows] == PAIRS
    assert [(row.output, row.flags) for row in scores.rows] == [(t.text, t.flags) for t in written]
    assert scores.examples == 5
    assert list(scores.metrics) == ["bleu", "chrf", "nll", "perplexity"]
    total, count = naive_nll(model)
    assert scores.metrics["nll"] == pytest.approx(total / count, abs=1e-9)
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(total / count))
    assert set(scores.signatures) == {"bleu", "chrf"}


def test_truncated_translations_are_warned_of(model):
    scores = evaluate_translator(
        model, Digits(), PAIRS, source=None, target="en", settings=DecodingSettings(beam=1, max_length=1)
    )
    assert "5 of 5 translations were truncated" in scores.warnings


def test_pairs_beyond_the_models_positions_are_left_out_of_the_loss_and_counted(model):
    long = ("c", "d" * 32)
    nll, left_out = translation_loss(model, Digits(), [*PAIRS, long])
    assert left_out == 1
    assert nll == pytest.approx(translation_loss(model, Digits(), PAIRS)[0])
    assert translation_loss(model, Digits(), [("c", "d" * 31)])[1] == 0
    nll, left_out = translation_loss(model, Digits(), [long])
    assert math.isnan(nll)
    assert left_out == 1


def test_no_batch_no_loss(model):
    assert math.isnan(dev_loss(model, objective(), [])["loss"])
