"""The readable oracle: greedy and beam search as the textbook has them, one text at a time and without a cache.

`search` does the same for a whole batch with a cache, and is tested against this file, token for token.
Shapes: T tokens written so far, S source length, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ciyuan.batch import Layout, Stream
from ciyuan.model.config import ModelConfig
from ciyuan.model.transformer import Transformer

FinishReason = Literal["stop", "length"]

NextLogProbs = Callable[[Sequence[int]], Tensor]
"""What a search asks of a model: log-probabilities (V,) of the next token after the tokens written so far."""


@dataclass(frozen=True)
class Hypothesis:
    """A text that a search has written.

    tokens: without EOS. log_probs: of each written token in nats, EOS last if the text ended with it, as the model gave them.
    finish_reason: "stop" at EOS, "length" if the limit cut it.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    finish_reason: FinishReason

    @property
    def score(self) -> float:
        """log P(tokens | source), the sum of log_probs, in nats."""
        return math.fsum(self.log_probs)

    def rank(self, length_penalty: float) -> float:
        """What beam search sorts by: score / lengthᵅ, length counting EOS. Source: `beam`."""
        return self.score / float(len(self.log_probs) ** length_penalty)


def greedy(next_log_probs: NextLogProbs, *, eos_id: int, limit: int, no_repeat_ngram: int = 0) -> Hypothesis:
    """Write the likeliest token, again and again, until EOS or `limit` tokens (EOS counts)."""
    tokens: list[int] = []
    log_probs: list[float] = []
    while len(log_probs) < limit:
        choices = _without_repeats(next_log_probs(tokens), tokens, no_repeat_ngram)
        token = int(choices.argmax())
        log_probs.append(float(choices[token]))
        if token == eos_id:
            return Hypothesis(tuple(tokens), tuple(log_probs), "stop")
        tokens.append(token)
    return Hypothesis(tuple(tokens), tuple(log_probs), "length")


@dataclass(frozen=True)
class _Path:
    """A text that is being written; tokens may end in EOS."""

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]

    @property
    def score(self) -> float:
        return math.fsum(self.log_probs)


def beam(
    next_log_probs: NextLogProbs,
    *,
    eos_id: int,
    limit: int,
    beam: int,
    length_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
) -> list[Hypothesis]:
    """The finished texts that beam search keeps, at most `beam`, best first.

    At each step every live path is continued by every token, and the 2·beam likeliest continuations are looked at:

    - one of the first `beam` of them that ends, by EOS or because it has `limit` tokens (EOS counts), is finished; of the
      finished, the `beam` best by score / lengthᵅ are kept, α = length_penalty, length in tokens with EOS;
    - the first `beam` of them that do not end live on. There are always as many, since each path ends in one way only.

    It stops when `beam` are kept and the best live path, were it to end where it stands, would rank no higher than the worst kept.
    For α ≤ 0 nothing better can follow. For α > 0 it is a heuristic: a live path could still raise its mean.

    Source: Graves 2012, Sequence transduction with recurrent neural networks, algorithm 1 (the idea); Wu et al. 2016, GNMT,
    eq. 14 (length normalisation), of which this is the simpler form lengthᵅ instead of ((5 + length) / 6)ᵅ. When paths finish
    and when the search stops is as in Hugging Face's generate(num_beams=beam, early_stopping=False, length_penalty=α).
    """
    live = [_Path((), ())]
    kept: list[Hypothesis] = []
    for length in range(1, limit + 1):
        paths: list[_Path] = []
        for path in live:
            choices = _without_repeats(next_log_probs(path.tokens), path.tokens, no_repeat_ngram)
            paths += [
                _Path((*path.tokens, token), (*path.log_probs, log_prob))
                for token, log_prob in enumerate(choices.tolist())
                if log_prob > -math.inf
            ]
        paths = sorted(paths, key=lambda path: path.score, reverse=True)[: 2 * beam]
        kept += [
            Hypothesis(path.tokens[:-1], path.log_probs, "stop")
            if path.tokens[-1] == eos_id
            else Hypothesis(path.tokens, path.log_probs, "length")
            for path in paths[:beam]
            if path.tokens[-1] == eos_id or length == limit
        ]
        kept = sorted(kept, key=lambda hypothesis: hypothesis.rank(length_penalty), reverse=True)[:beam]
        live = [path for path in paths if path.tokens[-1] != eos_id][:beam]
        if not live:
            break
        if len(kept) == beam and live[0].score / length**length_penalty <= kept[-1].rank(length_penalty):
            break
    return kept


def _without_repeats(log_probs: Tensor, tokens: Sequence[int], n: int) -> Tensor:
    """−∞ for each token that would write, for the second time, n tokens in a row. n = 0 forbids nothing.

    What is left is not normalised again. Source: Paulus et al. 2017, §2.5.
    """
    if n == 0:
        return log_probs
    end = tuple(tokens[len(tokens) - n + 1 :]) if len(tokens) >= n - 1 else None
    repeated = [tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tuple(tokens[i : i + n - 1]) == end]
    log_probs = log_probs.clone()
    log_probs[repeated] = -math.inf
    return log_probs


def forbidden_tokens(config: ModelConfig) -> tuple[int, ...]:
    """The tokens that a model of this config must never write: PAD, BOS and the decoder's start, unless they are its EOS."""
    special = {config.pad_id, config.bos_id, config.start_id} - {None, config.eos_id}
    return tuple(sorted(token for token in special if token is not None))


def translator(model: Transformer, source: Sequence[int], *, forbidden: Sequence[int] = ()) -> NextLogProbs:
    """The next-token log-probabilities of an encoder–decoder that has read `source`, by a full pass of the decoder each time.

    source: token ids as the encoder reads them, EOS included. `forbidden` tokens get −∞ after the softmax, so the others
    keep the model's own probabilities.
    """
    device = next(model.parameters()).device
    row = torch.tensor([source], dtype=torch.int64, device=device)
    stream = Stream(row, Layout.whole(row))

    with torch.no_grad():
        memory = model.encode(stream)

    def next_log_probs(tokens: Sequence[int]) -> Tensor:
        text = torch.tensor([[model.config.decoder_start, *tokens]], dtype=torch.int64, device=device)
        with torch.no_grad():
            hidden = model.hidden(Stream(text, Layout.whole(text)), memory=memory, memory_layout=stream.layout)
            logits = model.logits(hidden[0, -1])  # (V,)
        log_probs = widened(logits).log_softmax(dim=-1)
        log_probs[list(forbidden)] = -math.inf
        return log_probs

    return next_log_probs


def widened(logits: Tensor) -> Tensor:
    """In float32 at least: probabilities are never summed in half precision."""
    return logits if logits.dtype == torch.float64 else logits.float()
