from __future__ import annotations

import math

import pytest
import torch

from ciyuan.batch import IGNORED, Layout, Stream
from ciyuan.errors import UserError
from ciyuan.evaluation import compare, evaluate_language_model, evaluate_masked
from ciyuan.evaluation.language import token_nats
from ciyuan.objectives.masked_lm import MaskedLM
from ciyuan.text import Tokenizer, TokenizerSettings
from ciyuan.text.special import BERT_TOKENS
from tests.model.builders import build

DOCUMENTS = ["the cat sat\non the mat", "红狗看见猫。\n\n大鸟 flies\n", "a", "", "the dog " * 9]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(DOCUMENTS, TokenizerSettings(kind="characters", vocab_size=400))


@pytest.fixture(scope="module")
def model(tokenizer):
    return build("decoder", "pre-norm rotary grouped q/k-norm gated", vocab_size=tokenizer.vocab_size, dropout=0.2)


@torch.no_grad()
def naive_nats(model, ids, before: int = 10**9) -> list[float]:
    """Token by token, each from at most `before` of the tokens before it."""
    costs = []
    for i in range(1, len(ids)):
        text = torch.tensor([ids[max(0, i - before) : i]])
        hidden = model.hidden(Stream(text, Layout.whole(text)))[0, -1]
        costs.append(-float(model.logits(hidden).log_softmax(-1)[ids[i]]))
    return costs


def naive_document(model, tokenizer, document) -> float:
    ids = [tokenizer.bos_id, *tokenizer.encode(document), tokenizer.eos_id]
    return math.fsum(naive_nats(model, ids))


def test_bits_per_byte_are_of_every_token_and_end_over_every_byte(model, tokenizer):
    short = DOCUMENTS[:4]
    total = math.fsum(naive_document(model, tokenizer, text) for text in short if text)
    scores = evaluate_language_model(model, tokenizer, short)
    n_tokens = sum(len(tokenizer.encode(text)) + 1 for text in short if text)
    n_bytes = sum(len(text.encode()) for text in short)
    assert scores.metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / n_bytes, abs=1e-9)
    assert scores.metrics["nll"] == pytest.approx(total / n_tokens, abs=1e-9)
    assert scores.metrics["perplexity"] == pytest.approx(math.exp(total / n_tokens))
    assert scores.examples == 3
    assert "eos:scored" in scores.signatures["bits_per_byte"]


def test_each_document_alone_costs_what_it_costs_among_others(model, tokenizer):
    together = evaluate_language_model(model, tokenizer, DOCUMENTS).tallies()["bits_per_byte"]
    alone = [evaluate_language_model(model, tokenizer, [text]).tallies()["bits_per_byte"] for text in DOCUMENTS if text]
    sums = sum(tally.counts.sum(axis=0) for tally in alone)
    assert together.counts.sum(axis=0) == pytest.approx(sums, abs=1e-9)


def test_every_token_of_a_long_document_is_scored_once_with_the_context_of_its_window(model):
    ids = torch.randint(3, 100, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    (by_one,) = token_nats(model, [ids], width=5, stride=1)
    assert by_one.tolist() == pytest.approx(naive_nats(model, ids, before=5), abs=1e-9)
    (blocks,) = token_nats(model, [ids], width=5, stride=5)
    expected = [cost for start in range(0, 29, 5) for cost in naive_nats(model, ids[start : start + 6])]
    assert blocks[:25].tolist() == pytest.approx(expected[:25], abs=1e-9)
    assert len(blocks) == 29
    assert token_nats(model, [ids, [3]], width=32, stride=16)[0].tolist() == pytest.approx(
        naive_nats(model, ids), abs=1e-9
    )


def test_the_sums_are_by_line_so_that_one_document_can_be_compared(model, tokenizer):
    document = "the cat\n红狗\n\nsat"
    ids, offsets = tokenizer.encode_with_offsets(document)
    costs = naive_nats(model, [tokenizer.bos_id, *ids, tokenizer.eos_id])
    expected = [0.0] * 4
    for (first, _), cost in zip(offsets, costs):
        expected[document[:first].count("\n")] += cost
    expected[3] += costs[-1]
    counts = evaluate_language_model(model, tokenizer, [document]).tallies()["bits_per_byte"].counts
    assert counts[:, 0].tolist() == pytest.approx(expected, abs=1e-9)
    assert counts[:, 1].tolist() == [8, 7, 1, 3]


def test_models_of_different_tokenisers_are_compared_on_the_same_lines(model, tokenizer):
    lines = ["\n".join("the cat sat on the red dog" for _ in range(30))]
    other = Tokenizer.train(DOCUMENTS, TokenizerSettings(kind="bytes", vocab_size=300))
    second = build("decoder", "pre-norm rotary grouped q/k-norm gated", vocab_size=other.vocab_size, seed=3)
    one, two = (evaluate_language_model(*pair, lines) for pair in ((model, tokenizer), (second, other)))
    found = compare(one, two, samples=100)["bits_per_byte"]
    assert found.difference == pytest.approx(one.metrics["bits_per_byte"] - two.metrics["bits_per_byte"])
    assert found.better == ("the first model" if found.difference < 0 else "the second model")


def test_a_tokeniser_that_knows_no_start_or_does_not_know_the_text_is_said():
    special = BERT_TOKENS
    tokenizer = Tokenizer.train(["the cat sat"] * 9, TokenizerSettings(kind="wordpiece", vocab_size=40), special)
    model = build("decoder", "pre-norm rotary grouped q/k-norm gated", vocab_size=tokenizer.vocab_size)
    scores = evaluate_language_model(model, tokenizer, ["the 狗 cat sat"])
    assert any("no BOS token" in warning for warning in scores.warnings)
    assert any("1 of 3 tokens are unknown" in warning for warning in scores.warnings)
    assert "eos:none" in scores.signatures["bits_per_byte"]
    ids = tokenizer.encode("the 狗 cat sat")
    assert scores.metrics["nll"] == pytest.approx(math.fsum(naive_nats(model, ids)) / 3, abs=1e-9)


def test_nothing_to_score_and_strides_that_skip_tokens_are_refused(model, tokenizer):
    with pytest.raises(UserError, match="no text to score"):
        evaluate_language_model(model, tokenizer, ["", ""])
    with pytest.raises(UserError, match="a stride of 9 tokens in rows of 8"):
        evaluate_language_model(model, tokenizer, DOCUMENTS, width=8, stride=9)


@pytest.fixture(scope="module")
def encoder():
    tokenizer = Tokenizer.train(DOCUMENTS, TokenizerSettings(kind="characters", vocab_size=400), BERT_TOKENS)
    return build("encoder", "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size, dropout=0.2), tokenizer


@torch.no_grad()
def test_masked_accuracy_by_hand(encoder):
    model, tokenizer = encoder
    texts = [text for text in DOCUMENTS if text]
    objective = MaskedLM(
        pad_id=tokenizer.pad_id, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id, mask_id=tokenizer.mask_id,
        vocab_size=tokenizer.vocab_size, special_ids=range(5), seed=7, rate=0.3, mask_share=1.0, random_share=0.0,
    )  # fmt: skip
    right = asked = 0
    nats = 0.0
    for number, text in enumerate(texts):
        ids, draws = tokenizer.encode(text), objective.draws(0, number)
        for start in range(0, len(ids), 18):
            masked = objective.mask(ids[start : start + 18], None, draws)
            row = torch.tensor([[tokenizer.cls_id, *masked.shown.tolist(), tokenizer.sep_id]])
            logits = model.logits(model.hidden(Stream(row, Layout.whole(row))))[0, 1:-1]
            for place, target in enumerate(masked.targets.tolist()):
                if target != IGNORED:
                    assert masked.shown[place] == tokenizer.mask_id
                    asked += 1
                    right += int(logits[place].argmax()) == target
                    nats -= float(logits[place].log_softmax(-1)[target])
    scores = evaluate_masked(model, tokenizer, texts, width=20, rate=0.3, seed=7)
    assert scores.metrics == {
        "masked_accuracy": pytest.approx(100 * right / asked),
        "nll": pytest.approx(nats / asked, abs=1e-9),
    }
    assert scores.tallies()["masked_accuracy"].counts.sum(axis=0).tolist() == [right, asked]
    assert scores == evaluate_masked(model, tokenizer, texts, width=20, rate=0.3, seed=7)


def test_only_a_masked_language_model_is_scored_by_masking(model, tokenizer):
    with pytest.raises(UserError, match="no markers and mask"):
        evaluate_masked(model, tokenizer, DOCUMENTS)
