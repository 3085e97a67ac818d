"""Sequence to sequence: the cross-entropy of a target text given its source, −Σ log P(y_t | y_<t, x)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ciyuan.batch import IGNORED, Batch, Layout, Loss, Stream
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.cross_entropy import cross_entropy

Ids = Sequence[int] | np.ndarray


class Seq2Seq:
    """Translation and whatever else turns one text into another.

    source    x₁ x₂ … x_S </s>
    decoder   <s> y₁ y₂ … y_T
    targets   y₁  y₂ … y_T </s>      every target ends in a supervised end
    """

    columns = ("source", "target")

    def __init__(self, *, pad_id: int, start_id: int, eos_id: int, label_smoothing: float = 0.0) -> None:
        """start_id: what the decoder reads first. label_smoothing: ε of `cross_entropy`, while the model is training."""
        assert pad_id != eos_id, "PAD is an id of its own, or the end would never be learnt"
        self.pad_id, self.start_id, self.eos_id = pad_id, start_id, eos_id
        self.label_smoothing = label_smoothing

    def collate(self, examples: Sequence[tuple[Ids, Ids]], *, numbers: Sequence[int] = ()) -> Batch:
        """Pairs of (source ids, target ids), without special tokens, to a batch padded at the right."""
        sources = [[*map(int, source), self.eos_id] for source, _ in examples]
        targets = [[*map(int, target), self.eos_id] for _, target in examples]
        texts = [[self.start_id, *target[:-1]] for target in targets]
        return Batch(
            text=self._stream(texts),
            targets=_padded(targets, IGNORED),
            count=sum(map(len, targets)),
            source=self._stream(sources),
            examples=tuple(map(int, numbers)),
        )

    def loss(self, model: Transformer, batch: Batch) -> Loss:
        """Summed over target tokens, </s> included. The metric "nll" is the loss without smoothing."""
        targets = batch.targets[batch.targets != IGNORED]
        smoothing = self.label_smoothing if model.training else 0.0
        loss, likelihood = cross_entropy(model(batch), targets, smoothing=smoothing)
        return Loss(loss, batch.count, {"nll": (likelihood, batch.count)})

    def _stream(self, rows: Sequence[Sequence[int]]) -> Stream:
        return Stream(_padded(rows, self.pad_id), Layout.of_lengths([len(row) for row in rows]))


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    width = max(map(len, rows))
    padded = np.full((len(rows), width), filler, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(padded)
