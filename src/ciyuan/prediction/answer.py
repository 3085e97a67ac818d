"""Answers to questions about passages: pointed at by an encoder, written by a decoder or an encoder–decoder.

Shapes: B windows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ciyuan.batch import Batch
from ciyuan.errors import UserError
from ciyuan.generation import GenerationSettings, generate
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.question_answering import NO_ANSWER, SpanAnswering, Window
from ciyuan.objectives.rows import padded
from ciyuan.objectives.spans import best_span
from ciyuan.prediction.reading import between, ends, read_together
from ciyuan.text import Tokenizer
from ciyuan.text.prompts import answer_prompt, question_and_passage

MAX_LENGTH = 384
STRIDE = 128
MAX_ANSWER = 48
"""In tokens, where nothing else is said and the model has room for them."""


@dataclass(frozen=True)
class Answer:
    """The answer to one question; an empty text where the passage does not hold it.

    A pointed answer: text is passage[start:end]; score is of both its ends, null_score of there being no answer in the same
    window, both unnormalised, in nats: their difference tells how much likelier the answer is than none. Of an empty text, score
    is that of the span which was not given.
    A written one: score is its log-probability, EOS included, in nats; start, end and null_score are None.
    truncated: question or passage is longer than the model reads, and something of it was left out.
    """

    text: str
    score: float
    start: int | None = None
    end: int | None = None
    null_score: float | None = None
    truncated: bool = False


def answer(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[str],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    max_answer: int | None = None,
) -> list[Answer]:
    """The answer to each question from its passage, in whichever way the model answers."""
    if model.config.head == "span":
        return answer_spans(
            model, tokenizer, questions, passages, max_length=max_length, stride=stride, max_answer=max_answer
        )
    return write_answers(model, tokenizer, questions, passages, max_length=max_length, max_answer=max_answer)


def answer_spans(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[str],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    max_answer: int | None = None,
    null_threshold: float = 0.0,
) -> list[Answer]:
    """The best span of each passage, read in windows where it is long; no answer depends on the other questions.

    Of the windows the one counts in which the answer is likeliest against none; it is given if its score is above the
    null score by more than null_threshold: −inf always gives an answer. max_length: tokens of a window, markers included.
    stride: tokens of a passage that neighbouring windows share. max_answer: tokens of the longest answer.
    Source: Devlin et al. 2018, §4.3, with a deviation: there scores are compared between windows that were never taught a
    common scale.
    """
    _check(questions, passages)
    objective = _reader(model, tokenizer, max_length, stride)
    asked = tokenizer.encode_batch(list(questions)) if questions else []
    known = dict.fromkeys(passages)
    read = dict(zip(known, tokenizer.encode_batch_with_offsets(list(known)) if known else [], strict=True))
    owners: list[int] = []
    windows: list[Window] = []
    for number, (question, passage) in enumerate(zip(asked, passages, strict=True)):
        its = objective.windows(question, read[passage][0])
        owners += [number] * len(its)
        windows += its
    best: dict[int, _Found] = {}
    types = [window.token_types for window in windows] if objective.token_types else None
    with evaluating(model), torch.inference_mode():
        for some, text in read_together(model, [window.tokens for window in windows], token_types=types):
            scores = model(Batch(text, text.tokens, len(some))).double()  # (B, T, 2)
            starts, ends_ = scores.unbind(dim=-1)
            allowed = padded([windows[i].allowed for i in some], 0).bool().to(scores.device)
            spans = best_span(starts, ends_, allowed, max_answer=max_answer or MAX_ANSWER)
            nulls = (starts[:, NO_ANSWER] + ends_[:, NO_ANSWER]).tolist()
            for i, first, last, score, null in zip(
                some, spans.first.tolist(), spans.last.tolist(), spans.score.tolist(), nulls, strict=True
            ):
                shift = windows[i].begin - windows[i].offset
                found = _Found(score - null, -i, first + shift, last + shift, score, null)
                best[owners[i]] = max(found, best.get(owners[i], found), key=lambda one: (one.margin, one.order))
    answers = []
    for number, (question, passage) in enumerate(zip(asked, passages, strict=True)):
        cut = len(question) > objective.longest_question
        answers.append(_pointed(best[number], passage, read[passage][1], null_threshold, truncated=cut))
    return answers


@dataclass(frozen=True)
class _Found:
    """The best span of a window, in tokens of the passage; of equal margins the earlier window's counts."""

    margin: float
    order: int
    first: int
    last: int
    score: float
    null: float


def _pointed(
    found: _Found, passage: str, offsets: Sequence[tuple[int, int]], null_threshold: float, *, truncated: bool
) -> Answer:
    if not offsets:
        return Answer("", found.null, null_score=found.null, truncated=truncated)
    if not found.margin > null_threshold:
        return Answer("", found.score, null_score=found.null, truncated=truncated)
    start, end = offsets[found.first][0], offsets[found.last][1]
    text = passage[start:end]
    bare = text.strip()
    start += len(text) - len(text.lstrip())
    if not bare:
        return Answer("", found.score, null_score=found.null, truncated=truncated)
    return Answer(bare, found.score, start, start + len(bare), found.null, truncated)


def _reader(model: Transformer, tokenizer: Tokenizer, max_length: int | None, stride: int | None) -> SpanAnswering:
    config = model.config
    head, tail = ends(model, tokenizer)
    if head is None or tail is None:
        raise UserError(
            "this model's tokeniser has no markers to part question and passage", fix="train it with [CLS] and [SEP]"
        )
    width = min(max_length or MAX_LENGTH, config.max_positions)
    parting = between(model, tokenizer)
    usual = min(STRIDE, (width - 2 - len(parting)) // 4)  # half of what the longest question leaves
    return SpanAnswering(
        pad_id=config.pad_id,
        cls_id=head,
        sep_id=tail,
        between=parting,
        max_length=width,
        stride=usual if stride is None else stride,
        token_types=config.n_token_types > 1,
    )


def write_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    passages: Sequence[str],
    *,
    max_length: int | None = None,
    max_answer: int | None = None,
    settings: GenerationSettings | None = None,
) -> list[Answer]:
    """What the model writes after question ⊕ passage, greedily unless settings say otherwise.

    max_length: tokens of question and passage that the model was trained on, with a decoder those of the answer among them; the
    end of a longer passage, and then of the question, is not read. max_answer: tokens of the longest answer.
    """
    _check(questions, passages)
    longest = max_answer or MAX_ANSWER
    settings = settings or GenerationSettings(max_tokens=longest + 1)  # EOS is one of them
    room = _room(model, max_length, settings.max_tokens)
    asked, read = (tokenizer.encode_batch(list(side)) if side else [] for side in (questions, passages))
    prompts, truncated = [], []
    for question, passage in zip(asked, read, strict=True):
        excess = max(0, len(_prompt(model, tokenizer, question, passage)) - room)
        lost = max(0, excess - len(passage))  # of the question, where it alone is too long
        kept = question[: max(0, len(question) - lost)], passage[: max(0, len(passage) - excess)]
        prompts.append(_prompt(model, tokenizer, *kept))
        truncated.append(excess > 0)
    written = generate(model, tokenizer, prompts, settings=settings)
    return [
        Answer(found.text.strip(), found.score, truncated=cut) for found, cut in zip(written, truncated, strict=True)
    ]


def _room(model: Transformer, max_length: int | None, max_tokens: int) -> int:
    """The longest prompt in tokens, markers included. Behind a decoder's, the answer or as much again as the prompt must fit."""
    positions = model.config.max_positions
    if model.config.family == "encoder-decoder":
        return min(positions, (max_length or positions) + 1)  # EOS is not among the tokens it was trained on so many of
    whole = min(positions, max_length or positions)
    return max(whole - max_tokens, whole // 2)


def _prompt(model: Transformer, tokenizer: Tokenizer, question: Sequence[int], passage: Sequence[int]) -> list[int]:
    if model.config.family == "decoder":
        return answer_prompt(question, passage, tokenizer)
    return model.config.source_row(question_and_passage(question, passage, tokenizer))


def _check(questions: Sequence[str], passages: Sequence[str]) -> None:
    if len(questions) != len(passages):
        raise UserError(
            f"{len(questions)} questions and {len(passages)} passages", allowed="a passage for each question"
        )
