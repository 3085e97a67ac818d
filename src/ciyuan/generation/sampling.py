"""From logits to the token that is written: rules against repetition, filters of the distribution, and the draw.

Shapes: R rows that are written, T tokens that the rules look at, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ciyuan.generation.settings import GenerationSettings

NOTHING = -1
"""Fills the left of rows of written tokens that are shorter than others; never an id."""


def distribution(logits: Tensor, written: Tensor, settings: GenerationSettings, *, stops: Sequence[int] = ()) -> Tensor:
    """The probabilities (R, V) by which the next token is drawn, from logits (R, V), −∞ at what may not be written.

    written: (R, T) int64, what the rules against repetition look at, `NOTHING` at the left of shorter rows. stops: tokens that
    end a text, which no_repeat_ngram never forbids. In this order: repetition penalty, no_repeat_ngram, temperature, top-k, top-p,
    min-p, each working on what the one before has left, as in Hugging Face's generate. A temperature of 0: all on the likeliest.
    """
    scores = ruled(
        logits, written, repetition_penalty=settings.repetition_penalty, no_repeat_ngram=settings.no_repeat_ngram,
        stops=stops,
    )  # fmt: skip
    if not settings.heat:
        return torch.zeros_like(scores).scatter(1, scores.argmax(dim=1, keepdim=True), 1.0)
    return filtered(
        scores, temperature=settings.heat, top_k=settings.top_k, top_p=settings.top_p, min_p=settings.min_p
    ).softmax(dim=1)


def ruled(
    scores: Tensor, written: Tensor, *, repetition_penalty: float, no_repeat_ngram: int, stops: Sequence[int] = ()
) -> Tensor:
    """scores (R, V) under the two rules against repetition; see `distribution`. The tensor given is left as it was."""
    if repetition_penalty != 1.0 and written.shape[1]:
        scores = _penalised(scores, written, repetition_penalty)
    if no_repeat_ngram and written.shape[1] >= no_repeat_ngram:
        scores = _without_repeats(scores, written, no_repeat_ngram, stops)
    return scores


def _penalised(scores: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Each written token's score divided by the penalty, or multiplied by it where it is negative.

    Source: Keskar et al. 2019, CTRL, §4.1, with the sign's two cases as in Hugging Face: dividing a negative one would favour it.
    """
    written = torch.where(written == NOTHING, written[:, -1:], written)  # twice the same changes nothing
    found = scores.gather(1, written)
    return scores.scatter(1, written, torch.where(found < 0, found * penalty, found / penalty))


def _without_repeats(scores: Tensor, written: Tensor, n: int, stops: Sequence[int]) -> Tensor:
    """−∞ at each token that would write n tokens in a row for the second time. Source: Paulus et al. 2017, §2.5."""
    length = written.shape[1]
    ngrams = written.unfold(1, n, 1)  # (R, T − n + 1, n)
    seen = (ngrams[:, :, :-1] == written[:, None, length - n + 1 :]).all(dim=2) & (ngrams[:, :, -1] != NOTHING)
    row, place = seen.nonzero(as_tuple=True)
    ruled_out = scores.clone()
    ruled_out[row, ngrams[row, place, -1]] = -math.inf
    for stop in stops:
        ruled_out[:, stop] = scores[:, stop]
    return ruled_out


def filtered(scores: Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """scores (R, V) divided by the temperature, −∞ at what the filters leave out; the likeliest token always stays.

    top_k: tokens as likely as the k-th stay too. Source: Fan et al. 2018 (top-k); Holtzman et al. 2020 (top-p); Nguyen et al.
    2024 (min-p).
    """
    scores = (scores - scores.amax(dim=1, keepdim=True)) / temperature  # below 0, so that no temperature overflows
    if 0 < top_k < scores.shape[1]:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -math.inf)
    if top_p < 1:
        likely, order = scores.softmax(dim=1).sort(dim=1, descending=True, stable=True)
        enough = likely.cumsum(dim=1) - likely >= top_p  # the likelier ones alone reach P
        enough[:, 0] = False
        scores = scores.masked_fill(torch.zeros_like(enough).scatter(1, order, enough), -math.inf)
    if min_p > 0:
        probabilities = scores.softmax(dim=1)
        scores = scores.masked_fill(probabilities < min_p * probabilities.amax(dim=1, keepdim=True), -math.inf)
    return scores


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """A token (R,) of each row of probabilities (R, V), by a uniform number (R,) in [0, 1) each.

    The first token at which the probabilities, summed in the vocabulary's order, exceed the number: one of probability 0 never.
    """
    sums = probabilities.double().cumsum(dim=1)
    total = sums[:, -1]
    wanted = torch.minimum(uniforms.to(sums) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(sums, wanted[:, None], right=True)[:, 0]


def uniforms(seed: int, n: int) -> Tensor:
    """n numbers (n,) float64 in [0, 1) from a generator of their own; more of them begin with the same ones."""
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**63))


def seed_of(seed: int, request: int, sample: int = 0) -> int:
    """What sample `sample` of request `request` of a call is drawn by: seed + request for the first, far from it for the others."""
    return (seed + request + sample * 0x9E3779B97F4A7C15) % 2**63  # the golden ratio in 64 bits
