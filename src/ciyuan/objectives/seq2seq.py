"""Sequence to sequence: the cross-entropy of a target text given its source, −Σ log P(y_t | y_<t, x)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciyuan.batch import IGNORED, Batch, Loss
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.alignment import Lexicon
from ciyuan.objectives.cross_entropy import cross_entropy
from ciyuan.objectives.rows import Ids, as_row, padded, stream


class Seq2Seq:
    """Translation and whatever else turns one text into another.

    source    x₁ x₂ … x_S </s>
    decoder   <s> y₁ y₂ … y_T
    targets   y₁  y₂ … y_T </s>      every target ends in a supervised end

    A decoder that is made to begin with a first token reads it after <s>, and is not asked for it.
    """

    columns = ("source", "target")

    def __init__(
        self,
        *,
        pad_id: int,
        start_id: int,
        eos_id: int,
        first_id: int | None = None,
        source_head: Sequence[int] = (),
        source_tail: Sequence[int] | None = None,
        label_smoothing: float = 0.0,
        lexicon: Lexicon | None = None,
        alignment_weight: float = 0.0,
    ) -> None:
        """source_head, source_tail: what goes around a source; None: </s> after it. start_id, first_id: what the decoder reads
        before it is asked. label_smoothing: ε of `cross_entropy`, in training.

        lexicon: where given, it teaches the first head of the last layer's cross-attention where to look, with
        alignment_weight at the start of the run and falling to 0 at its end. Source: Chen et al. 2016, Guided alignment training.
        """
        self.pad_id, self.start_id, self.eos_id, self.first_id = pad_id, start_id, eos_id, first_id
        self.source_head, self.source_tail = source_head, [eos_id] if source_tail is None else source_tail
        self.label_smoothing = label_smoothing
        self.lexicon = lexicon if alignment_weight else None
        self.alignment_weight = alignment_weight

    def collate(self, examples: Sequence[tuple[Ids, Ids]], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """Pairs of (source ids, target ids), without special tokens, to a batch padded at the right."""
        sources = [as_row(self.source_head, source, self.source_tail) for source, _ in examples]
        targets = [as_row(target, self.eos_id) for _, target in examples]
        texts = [as_row(self.start_id, self.first_id, target[:-1]) for target in targets]
        unasked = [] if self.first_id is None else [IGNORED]
        return Batch(
            text=stream(texts, self.pad_id),
            targets=padded([as_row(unasked, target) for target in targets], IGNORED),
            count=sum(map(len, targets)),
            source=stream(sources, self.pad_id),
            examples=tuple(map(int, numbers)),
            extra={}
            if self.lexicon is None
            else {"alignment": _alignment(self.lexicon, sources, targets, len(unasked))},
        )

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over target tokens, </s> included. The metric "nll" is the loss without smoothing and guidance."""
        targets = batch.targets[batch.targets != IGNORED]
        smoothing = self.label_smoothing if model.training else 0.0
        weight = self.alignment_weight * (1 - progress) if model.training and "alignment" in batch.extra else 0.0
        maps: list[Tensor] | None = [] if weight else None
        loss, likelihood = cross_entropy(model(batch, last_cross=maps), targets, smoothing=smoothing)
        metrics: dict[str, tuple[float | Tensor, int]] = {"nll": (likelihood, batch.count)}
        if maps:
            looked = maps[0][:, 0].clamp(min=1e-6).log()  # (B, T, S)
            guidance = -(batch.extra["alignment"] * looked).sum()
            loss = loss + weight * guidance
            metrics["alignment"] = (guidance.detach(), batch.count)
        return Loss(loss, batch.count, metrics)


def _alignment(
    lexicon: Lexicon, sources: Sequence[NDArray[np.int64]], targets: Sequence[NDArray[np.int64]], unasked: int
) -> Tensor:
    """(B, T, S): where each target token is to look; zero at padding and at the first, unasked positions."""
    table = np.zeros((len(sources), unasked + max(map(len, targets)), max(map(len, sources))), dtype=np.float32)
    for row, source, target in zip(table[:, unasked:], sources, targets, strict=True):
        row[: len(target), : len(source)] = lexicon.posterior(source, target)
    return torch.from_numpy(table)
