from __future__ import annotations

import functools
import math
import random

import pytest
import torch

from ciyuan.errors import RecipeError
from ciyuan.generation import decoding, search
from ciyuan.generation.decoding import Hypothesis, forbidden_tokens
from tests.generation.parrot import EOS, Letters, Parrot
from tests.model.builders import VARIANTS, build

SHARPER = 6.0


@functools.cache
def sharp(variant: str, dtype: torch.dtype = torch.float64, **changes: object):
    """A random model that is sure enough of itself for two tokens never to be tied within rounding."""
    model = build("encoder-decoder", variant, seed=3, logit_scale=SHARPER, **changes)
    return model.to(dtype)


def sources(n: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[*(draw.randrange(3, 23) for _ in range(draw.randrange(0, 10))), 2] for _ in range(n)]


def limits(n: int, seed: int, most: int = 9) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(1, most + 1) for _ in range(n)]


def by_oracle(model, source, limit, *, beam, length_penalty, no_repeat_ngram=0) -> list[Hypothesis]:
    next_log_probs = decoding.scorer(model, source, forbidden=forbidden_tokens(model.config))
    return decoding.beam(
        next_log_probs, eos_id=2, limit=limit, beam=beam, length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram
    )


def same(found: list[Hypothesis], wanted: list[Hypothesis], tolerance: float) -> None:
    assert [(h.tokens, h.finish_reason) for h in found] == [(h.tokens, h.finish_reason) for h in wanted]
    for mine, theirs in zip(found, wanted):
        assert mine.log_probs == pytest.approx(theirs.log_probs, abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_beam_search_is_the_oracle(variant, dtype):
    model = sharp(variant, dtype)
    rows, caps = sources(4, seed=1), limits(4, seed=4, most=8)
    for beam, length_penalty, no_repeat_ngram in ((1, 1.0, 0), (3, 0.0, 2), (4, 1.0, 0), (2, 0.6, 1)):
        found = search.beam_search(
            model, search.read_source(model, rows), beam=beam, limits=caps, length_penalty=length_penalty, n_best=beam,
            no_repeat_ngram=no_repeat_ngram,
        )  # fmt: skip
        for row, cap, hypotheses in zip(rows, caps, found):
            wanted = by_oracle(
                model, row, cap, beam=beam, length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram
            )
            same(hypotheses, wanted, 1e-9 if dtype == torch.float64 else 1e-4)


def test_these_models_end_texts_in_both_ways():
    """Or the tests here would prove less than they seem to."""
    reasons = set()
    for variant in VARIANTS:
        model = sharp(variant)
        found = search.beam_search(model, search.read_source(model, sources(6, seed=1)), beam=4, limits=[9] * 6)
        reasons |= {(variant, hypotheses[0].finish_reason) for hypotheses in found}
    assert {reason for _, reason in reasons} == {"stop", "length"}
    assert len(reasons) > len(VARIANTS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_search_is_the_oracle(variant, dtype):
    model = sharp(variant, dtype)
    rows, caps = sources(6, seed=5), limits(6, seed=6)
    for no_repeat_ngram in (0, 1, 2):
        found = search.greedy_search(
            model, search.read_source(model, rows), limits=caps, no_repeat_ngram=no_repeat_ngram
        )
        for row, cap, hypothesis in zip(rows, caps, found):
            next_log_probs = decoding.scorer(model, row, forbidden=forbidden_tokens(model.config))
            wanted = decoding.greedy(next_log_probs, eos_id=2, limit=cap, no_repeat_ngram=no_repeat_ngram)
            same([hypothesis], [wanted], 1e-9 if dtype == torch.float64 else 1e-4)


def test_a_decoder_made_to_begin_with_a_token_goes_on_from_it():
    model = sharp("post-norm sinusoidal", first_id=9)
    plain = build("encoder-decoder", "post-norm sinusoidal", seed=3, logit_scale=SHARPER).to(torch.float64)
    rows, caps = sources(6, seed=5), limits(6, seed=6)
    greedy = search.greedy_search(model, search.read_source(model, rows), limits=caps)
    beams = search.beam_search(model, search.read_source(model, rows), beam=3, limits=caps, n_best=3)
    for row, cap, hypothesis, hypotheses in zip(rows, caps, greedy, beams):
        after = decoding.scorer(plain, row, forbidden=forbidden_tokens(plain.config))
        wanted = decoding.greedy(lambda tokens: after([9, *tokens]), eos_id=2, limit=cap)  # noqa: B023
        same([hypothesis], [wanted], 1e-9)
        same(hypotheses, by_oracle(model, row, cap, beam=3, length_penalty=1.0), 1e-9)


def test_a_decoder_writes_as_much_as_it_has_positions_for():
    for first_id in (None, 9):
        model = build(
            "encoder-decoder", "learned embedding-norm gelu", first_id=first_id, max_positions=8, head_bias=True
        )
        with torch.no_grad():
            model.head.bias[2] = -1e4  # it never ends
        room = model.config.writing_room
        assert room == (8 if first_id is None else 7)
        (hypothesis,) = search.greedy_search(model, search.read_source(model, [[5, 2]]), limits=[room])
        assert (len(hypothesis.tokens), hypothesis.finish_reason) == (room, "length")
        with pytest.raises(RecipeError, match="longer than the 8 positions"):
            search.greedy_search(model, search.read_source(model, [[5, 2]]), limits=[room + 1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_beam_of_one_is_greedy(variant):
    model = sharp(variant)
    rows = search.read_source(model, sources(9, seed=7))
    greedy = search.greedy_search(model, rows, limits=[12] * 9)
    found = search.beam_search(model, rows, beam=1, limits=[12] * 9)
    for hypotheses, wanted in zip(found, greedy):
        same(hypotheses, [wanted], 1e-9)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_the_space_finds_the_best_text_of_all(length_penalty):
    model = build("encoder-decoder", "post-norm sinusoidal", vocab_size=5, logit_scale=2.0)
    width, limit = 3**3, 3  # EOS and two words, since PAD and BOS are never written
    next_log_probs = decoding.scorer(model, [3, 4, 2], forbidden=(0, 1))
    texts = []
    for first in (2, 3, 4):
        for second in (2, 3, 4):
            for third in (2, 3, 4):
                text = [first, second, third]
                text = text[: text.index(2) + 1] if 2 in text else text
                texts.append((sum(float(next_log_probs(text[:i])[token]) for i, token in enumerate(text)), text))
    wanted = max(texts, key=lambda text: text[0] / len(text[1]) ** length_penalty)
    ((best,),) = search.beam_search(
        model, search.read_source(model, [[3, 4, 2]]), beam=width, limits=[limit], length_penalty=length_penalty
    )
    assert [*best.tokens, *[2] * (best.finish_reason == "stop")] == wanted[1]
    assert best.score == pytest.approx(wanted[0], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("beam", [1, 4])
def test_a_text_does_not_depend_on_its_batch(beam, dtype):
    model = sharp("pre-norm sinusoidal tensor2tensor", dtype)
    rows, caps = sources(12, seed=11), limits(12, seed=12, most=16)
    together = search.beam_search(model, search.read_source(model, rows), beam=beam, limits=caps, n_best=beam)
    backwards = search.beam_search(
        model, search.read_source(model, rows[::-1]), beam=beam, limits=caps[::-1], n_best=beam
    )
    for row, cap, one, other in zip(rows, caps, together, backwards[::-1]):
        (alone,) = search.beam_search(model, search.read_source(model, [row]), beam=beam, limits=[cap], n_best=beam)
        same(one, alone, 1e-4)
        same(other, alone, 1e-4)


@pytest.mark.parametrize("beam", [1, 3])
def test_pad_bos_and_start_are_never_written(beam):
    model = sharp("post-norm sinusoidal", head_bias=True, start_id=7)
    bias = model.head.bias
    saved = bias.detach().clone()
    try:
        with torch.no_grad():
            bias[[0, 1, 7]] = 1000.0
        rows = search.read_source(model, sources(5, seed=3))
        found = search.beam_search(model, rows, beam=beam, limits=[8] * 5, n_best=beam)
        found += [[hypothesis] for hypothesis in search.greedy_search(model, rows, limits=[8] * 5)]
        written = {token for hypotheses in found for hypothesis in hypotheses for token in hypothesis.tokens}
        assert written
        assert not written & {0, 1, 7}
    finally:
        with torch.no_grad():
            bias.copy_(saved)


def test_the_score_is_the_models_own_log_probability():
    model = sharp("post-norm sinusoidal")
    (row,) = sources(1, seed=21)
    ((best, second),) = search.beam_search(model, search.read_source(model, [row]), beam=2, limits=[9], n_best=2)
    next_log_probs = decoding.scorer(model, row)
    for hypothesis in (best, second):
        whole = [*hypothesis.tokens, *[2] * (hypothesis.finish_reason == "stop")]
        wanted = [float(next_log_probs(whole[:i])[token]) for i, token in enumerate(whole)]
        assert hypothesis.log_probs == pytest.approx(wanted, abs=1e-9)
        assert hypothesis.score == pytest.approx(math.fsum(wanted), abs=1e-9)
    assert best.rank(1.0) >= second.rank(1.0)


def test_the_encoder_runs_once_and_finished_texts_leave():
    model, letters = Parrot(), Letters()
    texts = ["a", "bcd", "efghij", "klmnopqrstuvwxyz", "", "ab"]
    rows = search.read_source(model, [[*ids, EOS] for ids in letters.encode_batch(texts)])
    found = search.beam_search(model, rows, beam=3, limits=[30] * 6)
    assert [letters.decode(best.tokens) for (best,) in found] == texts
    assert model.rows_read == [6]
    assert model.rows_written[:2] == [6, 18]  # one row a text at first, then one for each beam
    assert model.rows_written[-1] == 3
    assert model.rows_written == sorted(model.rows_written[:1]) + sorted(model.rows_written[1:], reverse=True)
    model.rows_written.clear()
    greedy = search.greedy_search(model, rows, limits=[30] * 6)
    assert [letters.decode(hypothesis.tokens) for hypothesis in greedy] == texts
    assert model.rows_written[-1] == 1


def test_half_precision_is_summed_in_float32():
    model = build("encoder-decoder", "pre-norm sinusoidal tensor2tensor", logit_scale=SHARPER).to(torch.bfloat16)
    rows = search.read_source(model, sources(4, seed=9))
    (best,), *_ = search.beam_search(model, rows, beam=2, limits=[6] * 4)
    assert len(best.log_probs) == len(best.tokens) + (best.finish_reason == "stop")
    assert all(math.isfinite(log_prob) and log_prob <= 0 for log_prob in best.log_probs)
