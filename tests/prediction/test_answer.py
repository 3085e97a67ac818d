from __future__ import annotations

import math

import pytest
import torch

from ciyuan.batch import Layout, Stream
from ciyuan.errors import RecipeError, UserError
from ciyuan.evaluation import evaluate_answerer
from ciyuan.generation import GenerationSettings, generate
from ciyuan.prediction import answer, answer_spans, write_answers
from ciyuan.text import Tokenizer, TokenizerSettings
from ciyuan.text.prompts import answer_prompt, question_and_passage
from ciyuan.text.special import BERT_TOKENS
from tests.model.builders import build

PASSAGES = [
    "The cat sat on the mat. 红狗看见猫😀了。",
    "红狗  看见\n猫。",
    "",
    "cat " * 20,
    "The cat sat on the mat. 红狗看见猫😀了。",
]
QUESTIONS = ["who?", "谁？", "who?", "what is it that sat on the mat", "红"]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [*PASSAGES, *QUESTIONS] * 3
    return Tokenizer.train(texts, TokenizerSettings(kind="characters", vocab_size=400), BERT_TOKENS)


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(
        "encoder", "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size, head="span", n_token_types=2, dropout=0.2,
    )  # fmt: skip


def naive(model, tokenizer, question: str, passage: str, *, width: int, stride: int, max_answer: int):
    """(margin, score, null, start, end) of the best span, each window and each span tried."""
    asked = tokenizer.encode(question)[: (width - 3) // 2]
    ids, offsets = tokenizer.encode_with_offsets(passage)
    head = [tokenizer.cls_id, *asked, tokenizer.sep_id]
    room = width - len(head) - 1
    best, start = None, 0
    while True:
        some = ids[start : start + room]
        row = torch.tensor([[*head, *some, tokenizer.sep_id]])
        types = torch.tensor([[0] * len(head) + [1] * (len(some) + 1)])
        scores = model.span(model.hidden(Stream(row, Layout.whole(row), types)))[0].tolist()
        null = sum(scores[0])
        for a in range(len(some)):
            for b in range(a, min(len(some), a + max_answer)):
                score = scores[len(head) + a][0] + scores[len(head) + b][1]
                if best is None or score - null > best[0]:
                    best = (score - null, score, null, offsets[start + a][0], offsets[start + b][1])
        if start + room >= len(ids):
            return best
        start += room - stride


@pytest.mark.parametrize(("width", "stride", "max_answer"), [(32, 4, 6), (20, 3, 3), (24, 0, 1)])
def test_the_best_span_of_all_windows_is_found(model, tokenizer, width, stride, max_answer):
    found = answer_spans(
        model,
        tokenizer,
        QUESTIONS,
        PASSAGES,
        max_length=width,
        stride=stride,
        max_answer=max_answer,
        null_threshold=-math.inf,
    )
    for question, passage, one in zip(QUESTIONS, PASSAGES, found):
        best = naive(model, tokenizer, question, passage, width=width, stride=stride, max_answer=max_answer)
        if best is None:
            assert (one.text, one.start) == ("", None)
            continue
        margin, score, null, start, end = best
        assert one.score == pytest.approx(score, abs=1e-9)
        assert one.null_score == pytest.approx(null, abs=1e-9)
        assert one.score - one.null_score == pytest.approx(margin, abs=1e-9)
        assert one.text == passage[start:end].strip()
        if one.text:
            assert one.text == passage[one.start : one.end]


def test_many_questions_are_answered_as_one_at_a_time(model, tokenizer):
    together = answer(model, tokenizer, QUESTIONS, PASSAGES, max_length=24, stride=2)
    for question, passage, one in zip(QUESTIONS, PASSAGES, together):
        (alone,) = answer(model, tokenizer, [question], [passage], max_length=24, stride=2)
        assert (one.text, one.start, one.end, one.truncated) == (alone.text, alone.start, alone.end, alone.truncated)
        assert (one.score, one.null_score) == (
            pytest.approx(alone.score, abs=1e-12),
            pytest.approx(alone.null_score, abs=1e-12),
        )


def test_the_threshold_decides_whether_there_is_an_answer(model, tokenizer):
    found = answer_spans(model, tokenizer, QUESTIONS[:2], PASSAGES[:2], null_threshold=-math.inf)
    for question, passage, one in zip(QUESTIONS, PASSAGES, found):
        margin = one.score - one.null_score
        below, above = (
            answer_spans(model, tokenizer, [question], [passage], null_threshold=margin + shift)[0]
            for shift in (-0.01, 0.01)
        )
        assert below.text == one.text
        assert (above.text, above.start, above.end) == ("", None, None)


def test_a_question_that_is_cut_is_said(model, tokenizer):
    long, short = answer_spans(model, tokenizer, ["who " * 9, "who"], PASSAGES[:2], max_length=32, stride=2)
    assert (long.truncated, short.truncated) == (True, False)


def test_what_does_not_fit_together_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="2 questions and 1 passages"):
        answer(model, tokenizer, ["a", "b"], ["c"])
    with pytest.raises(RecipeError, match="stride"):
        answer(model, tokenizer, ["a"], ["b"], max_length=20, stride=20)
    assert answer(model, tokenizer, [], []) == []


def test_an_answerer_is_evaluated_by_what_it_answers(model, tokenizer):
    found = answer(model, tokenizer, QUESTIONS[:2], PASSAGES[:2], max_length=32, stride=2, max_answer=3)
    references = [[one.text] if one.text else [] for one in found]
    scores = evaluate_answerer(
        model, tokenizer, QUESTIONS[:2], PASSAGES[:2], references, max_length=32, stride=2, max_answer=3
    )
    assert (scores.metrics["exact_match"], scores.metrics["f1"]) == (100, 100)
    assert [row.source for row in scores.rows] == QUESTIONS[:2]


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_a_model_that_writes_is_asked_by_question_and_passage(family):
    tokenizer = Tokenizer.train([*PASSAGES, *QUESTIONS], TokenizerSettings(kind="characters", vocab_size=400))
    model = build(family, "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size, max_positions=48)
    found = answer(model, tokenizer, QUESTIONS[:2], [PASSAGES[1], PASSAGES[0]], max_answer=5)
    for question, passage, one in zip(QUESTIONS, [PASSAGES[1], PASSAGES[0]], found):
        ids = [tokenizer.encode(text) for text in (question, passage)]
        prompt = (
            answer_prompt(*ids, tokenizer)
            if family == "decoder"
            else [*question_and_passage(*ids, tokenizer), tokenizer.eos_id]
        )
        (written,) = generate(model, tokenizer, [prompt], settings=GenerationSettings(max_tokens=6))
        assert one.text == written.text.strip()
        assert one.score == pytest.approx(written.score, abs=1e-9)
        assert (one.start, one.end, one.truncated) == (None, None, False)


@pytest.mark.parametrize(("family", "room"), [("decoder", 19), ("encoder-decoder", 25)])
def test_what_is_too_long_to_be_read_is_cut_from_its_end_and_said(family, room):
    """Within 24 tokens as trained: a decoder's answer of 4 and its EOS are among them, an encoder–decoder's EOS is not."""
    tokenizer = Tokenizer.train([*PASSAGES, *QUESTIONS], TokenizerSettings(kind="characters", vocab_size=400))
    model = build(family, "learned embedding-norm gelu", vocab_size=tokenizer.vocab_size)

    def ask(questions: list[str], passages: list[str]) -> list:
        return write_answers(model, tokenizer, questions, passages, max_length=24, max_answer=4)

    passage_cut, whole, question_cut = ask(["who?", "谁？", "who? " * 9], [PASSAGES[3], "猫", "猫"])
    assert (passage_cut.truncated, whole.truncated, question_cut.truncated) == (True, False, True)
    question = tokenizer.encode("who?")
    bare = (
        answer_prompt(question, [], tokenizer)
        if family == "decoder"
        else [*question_and_passage(question, [], tokenizer), 2]
    )
    fits = room - len(bare)
    assert tokenizer.encode(PASSAGES[3][: fits - 1]) == tokenizer.encode(PASSAGES[3])[:fits]
    (longest,), (longer,) = (ask(["who?"], [PASSAGES[3][: fits - 1 + more]]) for more in (0, 1))
    assert (longest.truncated, longer.truncated) == (False, True)
    assert longer.text == longest.text == passage_cut.text
    assert [one.score for one in (longer, longest)] == pytest.approx([passage_cut.score] * 2, abs=1e-9)
