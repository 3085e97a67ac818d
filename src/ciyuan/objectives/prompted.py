"""What a decoder writes after a prompt: the next token wherever the answer is, −Σ_{i supervised} log P(x_i | x_<i)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Ids, as_row, numbered, padded, stream
from ciyuan.objectives.token_loss import next_token_loss


class Prompted:
    """Chat, and answering with a decoder: everything is read, only the supervised tokens are learnt.

    text         <s> 2 + 2 = 4 </s>
    supervised    0  0 0 0 0 1  1       so "4" and "</s>" are asked for
    """

    columns = ("text", "supervised")

    def __init__(self, *, pad_id: int, label_smoothing: float = 0.0) -> None:
        self.pad_id, self.label_smoothing = pad_id, label_smoothing

    def collate(self, examples: Sequence[tuple[Ids, Ids]], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """(ids with all their markers, 1 where a token is learnt and else 0) to a batch padded at the right.

        The first token of a text has nothing before it and is never asked for.
        """
        texts, targets = [], []
        for text, supervised in examples:
            ids, asked = as_row(text), np.asarray(supervised, dtype=bool)
            assert len(ids) == len(asked)
            texts.append(ids[:-1])
            targets.append(np.where(asked, ids, IGNORED)[1:])
        table = padded(targets, IGNORED)
        return Batch(
            text=stream(texts, self.pad_id),
            targets=table,
            count=int((table != IGNORED).sum()),
            examples=tuple(numbered(examples, numbers)),
        )

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over supervised tokens."""
        return next_token_loss(model, batch, label_smoothing=self.label_smoothing)
