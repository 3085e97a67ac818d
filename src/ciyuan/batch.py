"""What objectives, model and loop hand to one another: Layout, Stream, Batch and Loss.

Shapes: B rows, T positions (S on the source side), N supervised positions of the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""The target of a position that is not scored."""

PADDING = 0
"""The segment of padding. Segments of text count from 1."""


@dataclass(frozen=True)
class Layout:
    """Where each token stands: its position in its text, and which text of the row it belongs to.

    positions: (B, T) int64, from 0 in each text. segments: (B, T) int64, 0 = padding, 1, 2, … = the texts packed in a row.
    padded: False promises that no segment is padding; packed: False promises one text a row at positions 0 … T − 1.
    Both promises let attention choose a fast path without looking at the tensors.
    """

    positions: Tensor
    segments: Tensor
    padded: bool = True
    packed: bool = True

    @staticmethod
    def of_lengths(lengths: Sequence[int] | Tensor, width: int | None = None, *, device: Any = None) -> Layout:
        """One text a row, padded at the right to `width` (default: the longest)."""
        sizes = torch.as_tensor(lengths, dtype=torch.int64, device=device)
        width = int(sizes.max()) if width is None else width
        positions = torch.arange(width, device=device).expand(len(sizes), width)
        segments = (positions < sizes[:, None]).long()
        return Layout(positions, segments, padded=bool((sizes < width).any()), packed=False)

    @staticmethod
    def of_mask(mask: Tensor) -> Layout:
        """From a Hugging Face attention mask (B, T), 1 = text: one text a row, positions count from each row's first text token."""
        mask = mask.long()
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return Layout(positions, mask, padded=bool((mask == 0).any()), packed=bool((mask[:, 1:] > mask[:, :-1]).any()))

    @staticmethod
    def whole(tokens: Tensor, start: int = 0) -> Layout:
        """For (B, T) tokens without padding, at positions start … start + T − 1."""
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device).expand(tokens.shape)
        return Layout(positions, torch.ones_like(tokens), padded=False, packed=start > 0)

    @property
    def is_text(self) -> Tensor:
        """(B, T) bool: True where there is text, False at padding."""
        return self.segments != PADDING

    def rows(self, index: Tensor) -> Layout:
        """The rows that index (B',) picks, in its order."""
        return replace(self, positions=self.positions[index], segments=self.segments[index])

    def to(self, device: torch.device | str) -> Layout:
        return replace(self, positions=self.positions.to(device), segments=self.segments.to(device))


@dataclass(frozen=True)
class Stream:
    """Token ids and where they stand: one side of a model's input. tokens, token_types: (B, T) int64."""

    tokens: Tensor
    layout: Layout
    token_types: Tensor | None = None

    def to(self, device: torch.device | str) -> Stream:
        types = None if self.token_types is None else self.token_types.to(device)
        return Stream(self.tokens.to(device), self.layout.to(device), types)


@dataclass(frozen=True)
class Batch:
    """One step's question to the model.

    text: what the only stack reads, or what the decoder of an encoder–decoder reads.
    source: what the encoder of an encoder–decoder reads, else None.
    targets: (B, T) int64 over `text`'s positions, IGNORED where nothing is asked; or (B,) or (B, C) for a label per row.
    count: the number of scored targets, known before the model runs, by which the loop divides.
    examples: the numbers of the examples in the store, for the ledger.
    """

    text: Stream
    targets: Tensor
    count: int
    source: Stream | None = None
    examples: tuple[int, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Real (unpadded) tokens on both sides."""
        total = int(self.text.layout.is_text.sum())
        return total + (int(self.source.layout.is_text.sum()) if self.source is not None else 0)

    def to(self, device: torch.device | str) -> Batch:
        source = None if self.source is None else self.source.to(device)
        extra = {name: value.to(device) for name, value in self.extra.items()}
        return replace(self, text=self.text.to(device), targets=self.targets.to(device), source=source, extra=extra)


@dataclass(frozen=True)
class Loss:
    """A sum and what it is a sum over, never a mean: the loop divides once, over all micro-batches and ranks.

    sum: scalar tensor to differentiate, in nats. count: scored targets.
    metrics: further (sum, count) pairs to log, sums as numbers or detached scalar tensors, e.g. {"nll": (812.5, 300)}.
    """

    sum: Tensor
    count: int
    metrics: Mapping[str, tuple[float | Tensor, int]] = field(default_factory=dict)
