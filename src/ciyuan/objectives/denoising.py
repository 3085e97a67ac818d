"""Denoising: write what stood in the holes of a text, the pretraining of an encoder–decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.data.blocks import Block
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.drawing import Draws
from ciyuan.objectives.rows import Ids, Row, as_row, joined, numbered, packed, padded
from ciyuan.objectives.token_loss import next_token_loss


class Denoising:
    """Span corruption, anew each time a text is seen. <x> <y> are sentinels, ids that occur nowhere else.

    text       the cat sat on the mat
    source     the <x> on the <y> </s>
    targets    <x> cat sat <y> mat </s>      each target ends in a supervised end

    Source: Raffel et al. 2020, T5, §3.1.4 and §3.3.4, with two deviations: no further sentinel before </s>, which says the same;
    and a hole may be at either end of the text, where T5 never has one at its beginning and always one at its end.
    Blocks that share a row do not see one another.
    """

    columns = ("text",)

    def __init__(
        self,
        *,
        pad_id: int,
        start_id: int,
        eos_id: int,
        sentinel_ids: Sequence[int],
        seed: int,
        rate: float = 0.15,
        mean_span: float = 3.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """start_id: what the decoder reads first. sentinel_ids: of the first hole, the second, …; a text has at most so many.

        rate: the share of tokens that go into holes, on average. mean_span: tokens of a hole, on average.
        """
        assert len(set(sentinel_ids)) == len(sentinel_ids) > 0
        assert mean_span >= 1
        self.pad_id, self.start_id, self.eos_id = pad_id, start_id, eos_id
        self.sentinel_ids = list(sentinel_ids)
        self.seed, self.rate, self.mean_span, self.label_smoothing = seed, rate, mean_span, label_smoothing

    def collate(self, examples: Sequence[Sequence[Block]], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """Lines of blocks to a batch with a row for each. numbers: of the lines."""
        numbers = numbered(examples, numbers)
        sources, targets = [], []
        for number, line in zip(numbers, examples, strict=True):
            draws = Draws("denoise", self.seed, epoch, number)
            pairs = [self.corrupt(block.tokens, draws) for block in line]
            sources.append([source for source, _ in pairs])
            targets.append([target for _, target in pairs])
        table = padded([joined(line) for line in targets], IGNORED)
        return Batch(
            text=packed([[as_row(self.start_id, target[:-1]) for target in line] for line in targets], self.pad_id),
            targets=table,
            count=int((table != IGNORED).sum()),
            source=packed(sources, self.pad_id),
            examples=tuple(numbers),
        )

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over target tokens, sentinels and </s> included."""
        return next_token_loss(model, batch, label_smoothing=self.label_smoothing)

    def corrupt(self, tokens: Ids, draws: Draws) -> tuple[Row, Row]:
        """The text with holes, and what stood in them, both ended; a text that is not empty has at least one hole."""
        ids = np.asarray(tokens, dtype=np.int64)
        source: list[Ids] = []
        target: list[Ids] = []
        begin = 0
        for sentinel, (first, end) in zip(self.sentinel_ids, self._holes(len(ids), draws), strict=False):
            source += [ids[begin:first], [sentinel]]
            target += [[sentinel], ids[first:end]]
            begin = end
        return as_row(*source, ids[begin:], self.eos_id), as_row(*target, self.eos_id)

    def _holes(self, n: int, draws: Draws) -> NDArray[np.int64]:
        """(n_holes, 2): first token of each hole and the one after its last, with at least one token between two holes."""
        if n == 0:
            return np.empty((0, 2), dtype=np.int64)
        hidden = int(self.rate * n + draws.uniform(1)[0])
        hidden = max(1, min(hidden, n - 1))
        seen = n - hidden
        n_holes = min(max(1, round(hidden / self.mean_span)), hidden, seen + 1, len(self.sentinel_ids))
        holes = draws.lengths(hidden, n_holes)
        gaps = draws.lengths(seen + 2, n_holes + 1)  # before, between and after the holes
        gaps[[0, -1]] -= 1  # those at the ends may be empty
        firsts = np.cumsum(gaps[:-1]) + np.cumsum(holes) - holes
        return np.stack([firsts, firsts + holes], axis=1)
