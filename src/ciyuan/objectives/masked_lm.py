"""Masked language modelling: hidden tokens given all the others, −Σ_{i∈M} log P(x_i | x_∖M)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.data.blocks import Block
from ciyuan.errors import RecipeError
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.cross_entropy import cross_entropy
from ciyuan.objectives.drawing import Draws
from ciyuan.objectives.rows import Ids, Row, as_row, joined, numbered, packed, padded
from ciyuan.objectives.token_loss import hits, scored

Unit = Literal["tokens", "words", "spans"]

LONGEST_SPAN = 10
"""Tokens of the longest span (Joshi et al. 2020, SpanBERT, §3.1)."""


@dataclass(frozen=True)
class Masked:
    """A text as the model sees it, and what it is asked: the token itself where it is masked, elsewhere IGNORED. Both (T,)."""

    shown: Row
    targets: Row


class MaskedLM:
    """An encoder's pretraining, masked anew each time a text is seen.

    text       the cat sat on the mat
    row        [CLS] the [MASK] sat on the tree [SEP]
    targets      –    –   cat    –   –  –  mat    –

    Sources: Devlin et al. 2018, §3.1 (80 % become the mask token, 10 % a random one, 10 % stay); Liu et al. 2019 (dynamic
    masking); Cui et al. 2019 (whole words, in Chinese too); Joshi et al. 2020 (spans).
    """

    def __init__(
        self,
        *,
        pad_id: int,
        cls_id: int,
        sep_id: int,
        mask_id: int,
        vocab_size: int,
        special_ids: Sequence[int],
        seed: int,
        units: Unit = "tokens",
        rate: float = 0.15,
        rate_end: float | None = None,
        mean_span: float = 3.0,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        label_smoothing: float = 0.0,
    ) -> None:
        """units: what is masked as a whole. rate: the share of tokens that is masked; where rate_end is given it moves there, in a
        straight line, in the course of the run. mean_span: tokens of a span, on average.

        special_ids: what is neither masked nor put in another's place. mask_share, random_share: of the masked tokens, those
        that become the mask token and a random one; the rest stay as they are.
        """
        assert 0 <= mask_share <= mask_share + random_share <= 1
        assert len({pad_id, cls_id, sep_id, mask_id}) == 4, "each marker has an id of its own"
        self.pad_id, self.cls_id, self.sep_id, self.mask_id = pad_id, cls_id, sep_id, mask_id
        self.seed, self.units, self.rate = seed, units, rate
        self.rate_end = rate if rate_end is None else rate_end
        self.mask_share, self.random_share, self.label_smoothing = mask_share, random_share, label_smoothing
        self._special = np.zeros(vocab_size, dtype=bool)
        self._special[[*special_ids, pad_id, cls_id, sep_id, mask_id]] = True
        self._ordinary = np.flatnonzero(~self._special)
        self._span_shares = span_shares(mean_span) if units == "spans" else np.ones(1)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("text", "words") if self.units == "words" else ("text",)

    @property
    def moves(self) -> bool:
        """Whether what is asked depends on how far the run is."""
        return self.rate_end != self.rate

    def collate(
        self, examples: Sequence[Sequence[Block]], *, numbers: Sequence[int] = (), epoch: int = 0, progress: float = 1.0
    ) -> Batch:
        """Lines of blocks to a batch with a row for each, [CLS] and [SEP] around every block. numbers: of the lines.

        progress: of the run, 0 … 1, for the rate; whoever looks from outside a run has the rate of its end.
        """
        numbers = numbered(examples, numbers)
        texts: list[list[Row]] = []
        targets: list[Row] = []
        for number, line in zip(numbers, examples, strict=True):
            draws = self.draws(epoch, number)
            masked = [self.mask(block.tokens, block.words, draws, progress=progress) for block in line]
            texts.append([as_row(self.cls_id, part.shown, self.sep_id) for part in masked])
            targets.append(joined([as_row(IGNORED, part.targets, IGNORED) for part in masked]))
        table = padded(targets, IGNORED)
        return Batch(
            text=packed(texts, self.pad_id), targets=table, count=int((table != IGNORED).sum()), examples=tuple(numbers)
        )

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over masked tokens. Metrics: "nll" is the loss without smoothing, "accuracy" the share of them guessed."""
        targets = scored(batch)
        logits = model(batch)
        smoothing = self.label_smoothing if model.training else 0.0
        loss, likelihood = cross_entropy(logits, targets, smoothing=smoothing)
        metrics = {"nll": (likelihood, batch.count), "accuracy": (hits(logits, targets), batch.count)}
        return Loss(loss, batch.count, metrics)

    def draws(self, epoch: int, number: int) -> Draws:
        """The chance by which the texts of an example are masked."""
        return Draws("mask", self.seed, epoch, number)

    def mask(self, tokens: Ids, words: Ids | None, draws: Draws, *, progress: float = 1.0) -> Masked:
        """A text, without markers, masked by chance. words: 1 where a token begins a word; needed where words are the units.

        At least one unit of a text that is not empty is masked, and none with a special token in it unless there is no other.
        """
        ids = np.asarray(tokens, dtype=np.int64)
        n = len(ids)
        if n == 0:
            return Masked(ids, ids)
        lengths = self._lengths(n, words, draws)
        starts = np.cumsum(lengths) - lengths
        usable = np.flatnonzero(~np.logical_or.reduceat(self._special[ids], starts))
        if len(usable) == 0:
            usable = np.arange(len(lengths))
        taken = np.zeros(len(lengths), dtype=bool)
        rate = self.rate + progress * (self.rate_end - self.rate)
        taken[usable[chosen(lengths[usable], rate * n, draws)]] = True
        masked = np.repeat(taken, lengths)
        fate, random = draws.uniform(n), self._ordinary[draws.below(n, len(self._ordinary))]
        becomes_random = masked & (fate >= self.mask_share) & (fate < self.mask_share + self.random_share)
        shown = np.where(masked & (fate < self.mask_share), self.mask_id, np.where(becomes_random, random, ids))
        return Masked(shown, np.where(masked, ids, IGNORED))

    def _lengths(self, n: int, words: Ids | None, draws: Draws) -> NDArray[np.int64]:
        """Tokens of each unit, from the text's first to its last."""
        if self.units == "tokens":
            return np.ones(n, dtype=np.int64)
        if self.units == "words":
            assert words is not None, "whole words are masked where the store says where words begin"
            begins = np.asarray(words, dtype=bool).copy()
            assert len(begins) == n
            begins[0] = True  # a block may cut a word in two
            return np.diff(np.flatnonzero(begins), append=n)
        drawn = np.searchsorted(np.cumsum(self._span_shares)[:-1], draws.uniform(n), side="right") + 1
        ends = np.cumsum(drawn)
        return np.diff(np.minimum(ends[: int(np.searchsorted(ends, n)) + 1], n), prepend=0)


def chosen(lengths: NDArray[np.int64], quota: float, draws: Draws) -> NDArray[np.int64]:
    """Which units, of these many tokens each, are masked: in random order, as long as the quota of tokens is not used up.

    The unit that would go beyond it is taken as often as makes the quota right on average; the first is taken in any case.
    """
    order = draws.order(len(lengths))
    ends = np.cumsum(lengths[order])
    n = int(np.searchsorted(ends, quota, side="right"))
    if n < len(order):
        left = quota - (ends[n - 1] if n else 0)
        crosses = draws.uniform(1)[0] < left / lengths[order[n]]
        n += int(crosses or n == 0)
    return order[:n]


def span_shares(mean: float, longest: int = LONGEST_SPAN) -> NDArray[np.float64]:
    """(longest,): how often a span has 1, 2, … tokens, a geometric distribution cut at the longest, with this mean.

    Source: Joshi et al. 2020, SpanBERT, §3.1, where p is 0.2.
    """
    if not 1 <= mean <= (1 + longest) / 2:
        raise RecipeError(
            f"spans of {mean:g} tokens on average, where none is longer than {longest}",
            where="objective.mean_span",
            allowed=f"1 to {(1 + longest) / 2:g}",
        )
    sizes = np.arange(1, longest + 1)
    low, high = 0.0, 1.0  # of the ratio between a size's share and that of the size below it
    for _ in range(60):
        ratio = (low + high) / 2
        shares = np.power(ratio, sizes - 1, dtype=np.float64)
        shares /= shares.sum()
        low, high = (ratio, high) if shares @ sizes < mean else (low, ratio)
    return shares
