"""Answering by pointing: where in a passage the answer to a question begins and ends, −Σ ½ (log P(first) + log P(last))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ciyuan.batch import Batch, Loss
from ciyuan.errors import RecipeError
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.cross_entropy import cross_entropy
from ciyuan.objectives.rows import Ids, Row, as_row, numbered, padded, stream
from ciyuan.objectives.spans import windows

NO_ANSWER = 0
"""The position, that of [CLS], which stands for an answer that the window does not hold."""


@dataclass(frozen=True)
class Window:
    """One row: a question and a part of its passage.

    tokens, token_types, allowed: (T,), markers included; allowed: the positions of the passage. begin: which token of the passage
    is the window's first; that one stands at position `offset`.
    """

    tokens: Row
    token_types: Row
    allowed: Row
    begin: int
    offset: int


class SpanAnswering:
    """An encoder points at the first and the last token of the answer, or at [CLS] where there is none.

    row          [CLS] q₁ … q_m [SEP] p_i … p_j [SEP]      RoBERTa: <s> q₁ … q_m </s> </s> p_i … p_j </s>
    token type     0   0  …  0    0    1  …  1    1     in an encoder that has them
    targets       positions of the answer's first and last token; both 0 in a window that does not hold all of it

    A passage that does not fit is read in windows, each a row of its own. Only [CLS] and the passage can be pointed at.
    Source: Devlin et al. 2018, §4.2 and §4.3, with deviations: there each position of the row can be pointed at; and a question
    is cut at half of the row, not at a number of tokens.
    """

    columns = ("question", "passage", "span")

    def __init__(
        self,
        *,
        pad_id: int,
        cls_id: int,
        sep_id: int,
        between: Sequence[int] | None = None,
        max_length: int,
        stride: int,
        token_types: bool = True,
    ) -> None:
        """between: the markers that part question and passage; None: sep_id. max_length: tokens of a row, markers included.
        stride: tokens of a passage that neighbouring windows share.

        Raises RecipeError where windows would not move on.
        """
        self.pad_id, self.cls_id, self.sep_id = pad_id, cls_id, sep_id
        self.between = as_row(sep_id) if between is None else as_row(between)
        self.max_length, self.stride, self.token_types = max_length, stride, token_types
        room = max_length - self.n_markers - self.longest_question
        if room <= stride:
            raise RecipeError(
                f"rows of {max_length} tokens leave a passage no more than the {stride} that its windows share",
                where="objective.stride",
                allowed=f"less than {max(0, room)}",
            )

    @property
    def n_markers(self) -> int:
        """Of a row."""
        return 2 + len(self.between)

    @property
    def longest_question(self) -> int:
        """Tokens of a question that are read; the rest is cut off."""
        return (self.max_length - self.n_markers) // 2

    def windows(self, question: Ids, passage: Ids) -> list[Window]:
        """The rows in which a passage is read, at least one."""
        head = as_row(self.cls_id, question[: self.longest_question], self.between)
        found = []
        for begin, end in windows(len(passage), self.max_length - len(head) - 1, stride=self.stride):
            sizes = [len(head), end - begin, 1]
            found.append(
                Window(
                    as_row(head, passage[begin:end], self.sep_id),
                    np.repeat([0, 1, 1], sizes).astype(np.int64),
                    np.repeat([0, 1, 0], sizes).astype(np.int64),
                    begin,
                    len(head),
                )
            )
        return found

    def collate(
        self, examples: Sequence[tuple[Ids, Ids, Ids]], *, numbers: Sequence[int] = (), epoch: int = 0
    ) -> Batch:
        """(question, passage, [first, last] or []), without special tokens, to a batch with a row for each window.

        Targets are (B, 2); `extra["allowed"]` (B, T) says which positions can be pointed at, [CLS] among them.
        """
        rows: list[Window] = []
        targets: list[tuple[int, int]] = []
        for question, passage, span in examples:
            for window in self.windows(question, passage):
                rows.append(window)
                targets.append(place(window, span))
        allowed = padded([window.allowed for window in rows], 0).bool()
        allowed[:, NO_ANSWER] = True
        types = [window.token_types for window in rows]
        return Batch(
            text=stream([window.tokens for window in rows], self.pad_id, types if self.token_types else None),
            targets=torch.tensor(targets),
            count=len(rows),
            examples=tuple(numbered(examples, numbers)),
            extra={"allowed": allowed},
        )

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """Summed over windows, the mean of both ends. Metrics: "nll", the same, and "accuracy": windows with both ends right."""
        scores: Tensor = model(batch)  # (B, T, 2)
        scores = scores.masked_fill(~batch.extra["allowed"][:, :, None], -torch.inf)
        loss = scores.new_zeros(())
        right = torch.ones_like(batch.extra["allowed"][:, 0])
        for side in (0, 1):
            loss = loss + 0.5 * cross_entropy(scores[:, :, side], batch.targets[:, side])[0]
            right &= scores[:, :, side].detach().argmax(dim=1) == batch.targets[:, side]
        metrics = {"nll": (loss.detach(), batch.count), "accuracy": (right.sum(), batch.count)}
        return Loss(loss, batch.count, metrics)


def place(window: Window, span: Ids) -> tuple[int, int]:
    """Positions in the row of an answer [first, last], given in tokens of the passage; NO_ANSWER where not all of it is there."""
    if len(span) == 0:
        return NO_ANSWER, NO_ANSWER
    first, last = (int(token) - window.begin for token in span)
    if first < 0 or last >= int(window.allowed.sum()):
        return NO_ANSWER, NO_ANSWER
    return first + window.offset, last + window.offset
