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


def test_the_translator_gives_the_log_softmax_of_a_full_pass():
    model = build("encoder-decoder", "pre-norm rotary grouped q/k-norm gated")
    source, text = torch.tensor([[5, 6, 7, 2]]), torch.tensor([[1, 8, 9]])
    with torch.no_grad():
        memory, layout = model.encode(Stream(source, Layout.whole(source))), Layout.whole(source)
        wanted = model.logits(model.hidden(Stream(text, Layout.whole(text)), memory=memory, memory_layout=layout))[
            0, -1
        ].log_softmax(0)
    found = decoding.translator(model, [5, 6, 7, 2], forbidden=[0, 4])([8, 9])
    assert found[[0, 4]].tolist() == [-math.inf, -math.inf]
    kept = [i for i in range(23) if i not in (0, 4)]
    torch.testing.assert_close(found[kept], wanted[kept], rtol=0, atol=1e-12)
