"""Windows over a passage that is longer than the model reads, and the best answer in one. Shapes: B windows, T positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def windows(n_tokens: int, room: int, *, stride: int) -> list[tuple[int, int]]:
    """(first token, the one after the last) of each window of at most `room` tokens; together they cover the passage.

    stride: tokens that neighbours share, fewer than the room, so that an answer of so many tokens is whole in one of them.

    >>> windows(10, 6, stride=2)
    [(0, 6), (4, 10)]
    >>> windows(3, 6, stride=2), windows(0, 6, stride=2)
    ([(0, 3)], [(0, 0)])
    """
    if not 0 <= stride < room:
        raise ValueError(f"windows of {room} tokens cannot share {stride}")
    starts = range(0, max(1, n_tokens - stride), room - stride)
    return [(start, min(start + room, n_tokens)) for start in starts]


class BestSpan(NamedTuple):
    """The best answer of each window: its first and last position, both inclusive, and the sum of their scores. All (B,)."""

    first: Tensor
    last: Tensor
    score: Tensor


def best_span(start_scores: Tensor, end_scores: Tensor, allowed: Tensor, *, max_answer: int) -> BestSpan:
    """The answer of at most max_answer tokens, between allowed positions, whose scores add up to most.

    All (B, T); allowed: bool, the passage's positions, without [CLS], which stands for no answer. Of equals the one that begins
    and then ends first. A window without an allowed position gets a score of −∞.
    Source: Devlin et al. 2018, §4.2.
    """
    width = start_scores.shape[1]
    closed = ~allowed
    scores = start_scores.masked_fill(closed, -torch.inf)[:, :, None]
    scores = scores + end_scores.masked_fill(closed, -torch.inf)[:, None, :]  # (B, T, T)
    fits = torch.ones(width, width, dtype=torch.bool, device=scores.device).triu().tril(max_answer - 1)
    best, place = scores.masked_fill(~fits, -torch.inf).flatten(1).max(dim=1)
    return BestSpan(place // width, place % width, best)
