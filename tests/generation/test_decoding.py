from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.generation import decoding
from ciyuan.generation.decoding import Hypothesis
from tests.model.builders import build

EOS = 0


def random_scorer(seed: int, vocab_size: int = 4):
    """A model without any structure: each prefix has a distribution of its own."""
    tables: dict[tuple[int, ...], Tensor] = {}

    def next_log_probs(tokens: Sequence[int]) -> Tensor:
        key = tuple(tokens)
        if key not in tables:
            generator = torch.Generator().manual_seed(hash((seed, *key)) % 2**32)
            tables[key] = (2 * torch.randn(vocab_size, generator=generator, dtype=torch.float64)).log_softmax(0)
        return tables[key]

    return next_log_probs


def every_text(next_log_probs, *, limit: int, vocab_size: int = 4) -> list[Hypothesis]:
    found = []
    for length in range(1, limit + 1):
        for tokens in itertools.product(range(vocab_size), repeat=length):
            if EOS in tokens[:-1] or (tokens[-1] != EOS and length < limit):
                continue
            log_probs = tuple(float(next_log_probs(tokens[:i])[tokens[i]]) for i in range(length))
            found.append(
                Hypothesis(tokens[:-1], log_probs, "stop")
                if tokens[-1] == EOS
                else Hypothesis(tokens, log_probs, "length")
            )
    return found


@pytest.mark.parametrize("length_penalty", [-0.5, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_the_space_finds_what_exhaustive_search_finds(seed, length_penalty):
    next_log_probs = random_scorer(seed)
    everything = sorted(every_text(next_log_probs, limit=4), key=lambda h: h.rank(length_penalty), reverse=True)
    found = decoding.beam(next_log_probs, eos_id=EOS, limit=4, beam=4**4, length_penalty=length_penalty)
    assert [(h.tokens, h.finish_reason) for h in found] == [(h.tokens, h.finish_reason) for h in everything]
    assert [h.score for h in found] == pytest.approx([h.score for h in everything], abs=1e-12)
    assert math.fsum(math.exp(h.score) for h in everything) == pytest.approx(1)


@pytest.mark.parametrize("no_repeat_ngram", [0, 1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_a_beam_of_one_is_greedy(seed, no_repeat_ngram):
    next_log_probs = random_scorer(seed)
    greedy = decoding.greedy(next_log_probs, eos_id=EOS, limit=9, no_repeat_ngram=no_repeat_ngram)
    for length_penalty in (0.0, 1.0):
        found = decoding.beam(
            next_log_probs, eos_id=EOS, limit=9, beam=1, length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram
        )
        assert found == [greedy]


def test_greedy_stops_at_eos_and_at_the_limit():
    def alternate(tokens):
        return torch.tensor([[0.1, 0.9, 0.0], [0.7, 0.1, 0.2]][len(tokens) % 2]).log()

    assert decoding.greedy(alternate, eos_id=0, limit=5) == Hypothesis(
        (1,), pytest.approx((math.log(0.9), math.log(0.7))), "stop"
    )
    assert decoding.greedy(alternate, eos_id=0, limit=1) == Hypothesis((1,), pytest.approx((math.log(0.9),)), "length")


def test_a_limit_of_two_leaves_room_for_one_token_and_eos():
    def certain(tokens):
        return torch.tensor([1.0, 0.0] if tokens else [0.0, 1.0]).log()

    for limit, reason in ((1, "length"), (2, "stop")):
        (best,) = decoding.beam(certain, eos_id=0, limit=limit, beam=3)
        assert (best.tokens, best.finish_reason) == ((1,), reason)


def test_the_length_penalty_decides_between_short_and_long():
    """Stopping at once: ½. Writing 1 1 and stopping: ½ · 0.9 · 0.9, in three tokens."""

    def short_or_long(tokens):
        if not tokens:
            return torch.tensor([0.5, 0.5], dtype=torch.float64).log()
        return torch.tensor([0.1, 0.9] if len(tokens) == 1 else [0.9, 0.1], dtype=torch.float64).log()

    best = {a: decoding.beam(short_or_long, eos_id=0, limit=6, beam=2, length_penalty=a)[0] for a in (0.0, 1.0)}
    assert best[0.0].tokens == ()
    assert best[1.0].tokens == (1, 1)
    assert best[1.0].rank(1.0) == pytest.approx(math.log(0.5 * 0.9 * 0.9) / 3)
    assert best[1.0].score == pytest.approx(math.log(0.5 * 0.9 * 0.9))


def test_no_ngram_is_written_twice():
    def stubborn(tokens):
        return torch.tensor([0.01, 0.6, 0.39]).log()

    assert decoding.greedy(stubborn, eos_id=0, limit=6).tokens == (1, 1, 1, 1, 1, 1)
    assert decoding.greedy(stubborn, eos_id=0, limit=6, no_repeat_ngram=1).tokens == (1, 2)
    tokens = decoding.greedy(stubborn, eos_id=0, limit=20, no_repeat_ngram=2).tokens
    pairs = list(itertools.pairwise(tokens))
    assert tokens[:4] == (1, 1, 2, 1)
    assert len(set(pairs)) == len(pairs)


def test_forbidden_tokens_are_pad_bos_and_start_but_never_eos():
    config = build("encoder-decoder", "post-norm sinusoidal").config
    assert decoding.forbidden_tokens(config) == (0, 1)
    assert decoding.forbidden_tokens(config.model_copy(update={"start_id": 5})) == (0, 1, 5)
    assert decoding.forbidden_tokens(config.model_copy(update={"start_id": 2, "bos_id": None})) == (0,)


def test_the_scorer_gives_the_log_softmax_of_a_full_pass():
    model = build("encoder-decoder", "pre-norm rotary grouped q/k-norm gated")
    source, text = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[1, 8, 9]])
    with torch.no_grad():
        memory, layout = model.encode(Stream(source, Layout.whole(source))), Layout.whole(source)
        wanted = model.logits(model.hidden(Stream(text, Layout.whole(text)), memory=memory, memory_layout=layout))[
            0, -1
        ].log_softmax(0)
    found = decoding.scorer(model, [5, 6, 7, 2], forbidden=[0, 4])([8, 9])
    assert found[[0, 4]].tolist() == [-math.inf, -math.inf]
    kept = [i for i in range(23) if i not in (0, 4)]
    torch.testing.assert_close(found[kept], wanted[kept], rtol=0, atol=1e-12)


def random_logits(seed: int, vocab_size: int = 5):
    """The same without normalisation."""
    log_probs = random_scorer(seed, vocab_size)
    return lambda tokens: log_probs(tokens) + 1.5


def test_drawing_at_temperature_0_is_greedy():
    for seed in range(10):
        found = decoding.sample(random_logits(seed), eos_id=EOS, limit=9, uniforms=[0.5] * 9, temperature=0)
        wanted = decoding.greedy(random_scorer(seed, 5), eos_id=EOS, limit=9)
        assert (found.tokens, found.finish_reason) == (wanted.tokens, wanted.finish_reason)
        assert found.log_probs == pytest.approx(wanted.log_probs)


def test_a_drawn_token_is_the_first_whose_probabilities_sum_to_more_than_the_number():
    def fixed(tokens):
        return torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()

    for uniform, token in ((0.05, EOS), (0.15, 1), (0.35, 2), (0.95, 3)):
        found = decoding.sample(fixed, eos_id=EOS, limit=1, uniforms=[uniform])
        assert (*found.tokens, *([EOS] if found.finish_reason == "stop" else [])) == (token,)
        assert found.score == pytest.approx(math.log([0.1, 0.2, 0.3, 0.4][token]))


def test_log_probs_are_the_models_own_whatever_the_filters():
    def fixed(tokens):
        return torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()

    found = decoding.sample(
        fixed, eos_id=EOS, limit=1, uniforms=[0.0], temperature=2.0, top_k=2, repetition_penalty=1.2, prompt=[3]
    )
    assert found.log_probs == (pytest.approx(math.log([0.1, 0.2, 0.3, 0.4][found.tokens[0]])),)


def test_the_prompt_counts_as_written():
    def fixed(tokens):
        return torch.tensor([0.05, 0.15, 0.2, 0.6]).log()

    (best,) = decoding.beam(fixed, eos_id=EOS, limit=1, beam=1, prompt=[3], no_repeat_ngram=1)
    assert best.tokens == (2,)
    (best,) = decoding.beam(fixed, eos_id=EOS, limit=1, beam=1, prompt=[3], repetition_penalty=4.0)
    assert best.tokens == (2,)  # 4 ln 0.6 < ln 0.2
    assert best.score == pytest.approx(math.log(0.2))
    (best,) = decoding.beam(fixed, eos_id=EOS, limit=1, beam=1, prompt=[EOS, 1, 2, 3], no_repeat_ngram=1)
    assert best.finish_reason == "stop"  # no rule takes the end away


@pytest.mark.parametrize("seed", range(4))
def test_groups_without_a_penalty_are_the_same_search_each(seed):
    alone = decoding.beam(random_scorer(seed), eos_id=EOS, limit=6, beam=2)
    grouped = decoding.beam(random_scorer(seed), eos_id=EOS, limit=6, beam=6, groups=3)
    assert grouped == [hypothesis for hypothesis in alone for _ in range(3)]


@pytest.mark.parametrize("seed", range(4))
def test_a_high_diversity_penalty_gives_every_group_words_of_its_own(seed):
    """Three groups of one: each begins with another word, unless it says nothing at all."""
    found = decoding.beam(
        random_scorer(seed), eos_id=EOS, limit=3, beam=3, groups=3, diversity_penalty=100.0, length_penalty=0.0
    )
    firsts = [hypothesis.tokens[0] for hypothesis in found if hypothesis.tokens]
    assert len(set(firsts)) == len(firsts)
    assert len(found) == 3
    assert [h.rank(0.0) for h in found] == sorted((h.rank(0.0) for h in found), reverse=True)


def test_the_diversity_penalty_by_hand():
    """The first group writes 1; a group that would too pays 0.5 and takes 2 if that is less than 0.5 nats behind."""

    def near(tokens):
        return torch.tensor([0.1, 0.5, 0.4], dtype=torch.float64).log()

    for penalty, second in ((0.1, (1,)), (0.5, (2,))):
        found = decoding.beam(near, eos_id=EOS, limit=1, beam=2, groups=2, diversity_penalty=penalty)
        assert [h.tokens for h in found] == [(1,), second]
        assert found[1].score == pytest.approx(math.log(0.5 if second == (1,) else 0.4))


def test_early_stop_ends_with_the_first_full_beam():
    """Stopping at once: 0.3. With α = 1 the longer text is better, yet early_stop has its one text already."""

    def patient(tokens):
        first = torch.tensor([0.55, 0.45], dtype=torch.float64)
        return first.log() if not tokens else torch.tensor([0.001, 0.999], dtype=torch.float64).log()

    found = {stop: decoding.beam(patient, eos_id=0, limit=6, beam=2, early_stop=stop)[0] for stop in (True, False)}
    assert found[False].tokens == (1,) * 6
    assert found[True].tokens == ()


def test_a_text_may_end_otherwise_than_by_eos():
    def stubborn(tokens):
        return torch.tensor([0.1, 0.5, 0.4]).log()

    (best,) = decoding.beam(stubborn, eos_id=0, limit=9, beam=1, ends=lambda tokens: list(tokens) == [1, 1])
    assert (best.tokens, best.finish_reason, len(best.log_probs)) == ((1, 1), "stop", 2)
