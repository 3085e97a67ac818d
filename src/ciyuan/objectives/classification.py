"""Classification: which label a whole text has, −Σ log P(y | x), or which labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ciyuan.batch import Batch, Loss
from ciyuan.errors import DataError
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Ids, Row, as_row, numbered, stream
from ciyuan.objectives.token_loss import hits


class Classification:
    """One label, or any number of them, for a text or a pair of texts, with markers at head and tail.

    encoder     [CLS] a₁ … a_m [SEP]  ( b₁ … b_n [SEP] )     its first token is asked
    RoBERTa      <s>  a₁ … a_m </s>   ( </s> b₁ … b_n </s> )
    decoder      <s>  a₁ … a_m </s>   ( b₁ … b_n </s> )      its last token is asked
    token type    0   0  …  0    0      1  …  1    1         in an encoder that has them

    Sources: Radford et al. 2018, §3.3; Devlin et al. 2018, §4.1. Several labels: a sum over them of binary cross-entropies.
    Shapes: B rows, C classes.
    """

    def __init__(
        self,
        *,
        pad_id: int,
        head_id: int | None,
        tail_id: int | None,
        between: Sequence[int] | None = None,
        n_labels: int,
        pairs: bool = False,
        token_types: bool = False,
        multi_label: bool = False,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        """head_id, tail_id: the markers, [CLS] and [SEP] or <s> and </s>; None: the vocabulary has no such token.
        between: the markers that part two texts; None: that at the tail.

        class_weights: what each label's loss is multiplied by while the model is training; `balanced_weights` gives the usual ones.
        They do not change the count, so they should be 1 on average over the training rows.
        label_smoothing: ε, while the model is training: 1 − ε + ε/C on the label and ε/C on the others; of several
        labels each is asked for with 1 − ε/2 or ε/2.
        """
        assert class_weights is None or len(class_weights) == n_labels
        self.pad_id, self.head_id, self.tail_id, self.n_labels = pad_id, head_id, tail_id, n_labels
        self.between = as_row(tail_id) if between is None else as_row(between)
        self.pairs, self.token_types, self.multi_label = pairs, token_types, multi_label
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)
        self.label_smoothing = label_smoothing

    @property
    def columns(self) -> tuple[str, ...]:
        return ("text", "second", "label") if self.pairs else ("text", "label")

    @property
    def n_markers(self) -> int:
        """Of a row, or of the row of a pair."""
        row, _ = self.row((), () if self.pairs else None)
        return len(row)

    def collate(self, examples: Sequence[tuple[Ids, ...]], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """(text, label ids) or (text, second text, label ids), without special tokens, to a batch padded at the right.

        Targets are (B,), or with several labels (B, C) of 0 and 1. Raises DataError at a row that has not exactly one label
        where it should, or a label that there is not.
        """
        numbers = numbered(examples, numbers)
        rows, types = zip(*(self.row(*texts) for *texts, _ in examples), strict=True)
        labels = [self._labels(example[-1], number) for example, number in zip(examples, numbers, strict=True)]
        if self.multi_label:
            targets = torch.zeros(len(labels), self.n_labels, dtype=torch.int64)
            for target, present in zip(targets, labels, strict=True):
                target[present] = 1
        else:
            targets = torch.tensor([present[0] for present in labels])
        return Batch(
            text=stream(rows, self.pad_id, types if self.token_types else None),
            targets=targets,
            count=len(rows),
            examples=tuple(numbers),
        )

    def row(self, text: Ids, second: Ids | None = None) -> tuple[Row, Row]:
        """The ids of a row and their token types, markers included."""
        first = as_row(self.head_id, text, self.tail_id if second is None else self.between)
        rest = as_row() if second is None else as_row(second, self.tail_id)
        return as_row(first, rest), np.repeat([0, 1], [len(first), len(rest)]).astype(np.int64)

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over rows. Metrics: "nll" is the loss without weights and smoothing, "accuracy" the share of rows that are
        right, which with several labels means all of them, at a probability of one half."""
        logits = model(batch)  # (B, C)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        asked = self._losses_of_several if self.multi_label else self._losses
        nll = asked(logits, batch.targets, smoothing=0.0, weights=None).detach().sum()
        smoothing, weights = (self.label_smoothing, self.class_weights) if model.training else (0.0, None)
        loss = asked(logits, batch.targets, smoothing=smoothing, weights=weights).sum()
        right = (
            ((logits.detach() > 0) == (batch.targets > 0)).all(dim=1).sum()
            if self.multi_label
            else hits(logits, batch.targets)
        )
        return Loss(loss, batch.count, {"nll": (nll, batch.count), "accuracy": (right, batch.count)})

    def _losses(self, logits: Tensor, targets: Tensor, *, smoothing: float, weights: Tensor | None) -> Tensor:
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        return losses if weights is None else losses * weights.to(logits)[targets]

    def _losses_of_several(
        self, logits: Tensor, targets: Tensor, *, smoothing: float, weights: Tensor | None
    ) -> Tensor:
        wanted = targets.to(logits) * (1 - smoothing) + smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return losses if weights is None else losses * weights.to(logits)

    def _labels(self, label: Ids, number: int) -> list[int]:
        labels = [int(one) for one in label]
        if not self.multi_label and len(labels) != 1:
            raise DataError(f"example {number} has {len(labels)} labels, not one", fix="set data.multi_label: true")
        if not all(0 <= one < self.n_labels for one in labels):
            raise DataError(f"example {number} has label {max(labels)}", allowed=f"there are {self.n_labels} labels")
        return labels


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weights under which each label that occurs counts the same in all, and which are 1 on average over the rows.

    counts: rows of each label. One that never occurs weighs nothing.

    >>> balanced_weights([30, 10, 0])
    [0.6666666666666666, 2.0, 0.0]
    """
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]
