"""Keys and values of what a decoder has read, so that each new token costs one position of work.

The cache is an argument of the forward pass, never state of a module. Shapes: B rows, G key/value heads, S keys, K d_head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ciyuan.batch import Layout


@dataclass
class Memory:
    """Keys and values of one attention: (B, G, capacity, K) buffers of which the first `length` are in use."""

    keys: Tensor | None = None
    values: Tensor | None = None
    length: int = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, G, T, K) new keys and values; all of them so far, (B, G, S, K), come back as views."""
        end = self.length + keys.shape[2]
        self.keys = self._grown(self.keys, keys, end)
        self.values = self._grown(self.values, values, end)
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        if buffer is not None and buffer.shape[2] >= end:
            return buffer
        capacity = max(end, 32 if buffer is None else 2 * buffer.shape[2])
        grown = new.new_empty(new.shape[0], new.shape[1], capacity, new.shape[3])
        if buffer is not None:
            grown[:, :, : self.length] = buffer[:, :, : self.length]
        return grown

    def select(self, rows: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys = self.keys[rows]  # the spare capacity too, or the next append would copy everything again
            self.values = self.values[rows]


class Cache:
    """What a decoder stack remembers: per layer its own past, and the encoder's output as keys and values.

    `layout` says where the remembered tokens stand. `length` is how many positions are remembered, in tokens.
    """

    def __init__(self, n_layers: int) -> None:
        self.past = [Memory() for _ in range(n_layers)]
        self.cross = [Memory() for _ in range(n_layers)]
        self.layout: Layout | None = None

    @property
    def length(self) -> int:
        return 0 if self.layout is None else self.layout.positions.shape[1]

    def extend(self, layout: Layout) -> Layout:
        """Remember where the new tokens stand; the layout of everything so far comes back."""
        old = self.layout
        if old is None:
            self.layout = layout
        else:
            # Rows that continue at one past their last position, without padding, are still one text a row.
            plain = not (old.packed or old.padded or layout.padded)
            self.layout = Layout(
                torch.cat([old.positions, layout.positions], dim=1),
                torch.cat([old.segments, layout.segments], dim=1),
                padded=old.padded or layout.padded,
                packed=not plain,
            )
        return self.layout

    def select(self, rows: Tensor, *, same_source: bool = False) -> None:
        """Keep these rows (B',), in this order: reorders beams, repeats rows and drops finished ones.

        same_source promises that each row is replaced by one of the same source text, whose cross-attention keys are equal.
        """
        for memory in self.past if same_source else (*self.past, *self.cross):
            memory.select(rows)
        if self.layout is not None:
            self.layout = self.layout.rows(rows)
