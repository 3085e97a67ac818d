"""How much arithmetic a model is: matrix products alone, a multiply-add counting two.

Causality saves nothing here, as it saves nothing in a dense product; padding costs nothing, for nobody wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ciyuan.batch import IGNORED, Batch, Layout
from ciyuan.model.attention import Attention, CrossAttention
from ciyuan.model.heads import LanguageModelHead, Transform
from ciyuan.model.layers import FeedForward
from ciyuan.model.transformer import Transformer

BACKWARD = 2
"""How many times the forward pass the backward pass is: one product for the input's gradient, one for the weight's."""


@dataclass(frozen=True)
class Cost:
    """Operations of a forward pass for each token of the text, and of the source of an encoder–decoder; for each scored position,
    which alone the head looks at; for each row; and for each pair of tokens of which one may see the other."""

    text: int = 0
    source: int = 0
    scored: int = 0
    row: int = 0
    text_pair: int = 0
    source_pair: int = 0
    cross_pair: int = 0

    @staticmethod
    def of(model: Transformer) -> Cost:
        found = dict.fromkeys(("text", "source", "scored", "row", "text_pair", "source_pair", "cross_pair"), 0)
        both = model.config.family == "encoder-decoder"
        for name, module in model.named_modules():
            side = "source" if both and name.startswith("encoder.") else "text"
            if isinstance(module, Attention):
                is_cross = isinstance(module, CrossAttention)
                found["cross_pair" if is_cross else f"{side}_pair"] += 4 * module.n_heads * module.d_head
                found[side] += 2 * (_matrices(module.q) + _matrices(module.out))
                found["source" if is_cross else side] += 2 * (_matrices(module.k) + _matrices(module.v))
            elif isinstance(module, FeedForward):
                found[side] += 2 * _matrices(module)
            elif isinstance(module, LanguageModelHead):
                found["scored"] += 2 * model.config.vocab_size * model.config.d_model
            elif isinstance(module, Transform):
                found["scored" if name.startswith(("head", "span")) else "row"] += 2 * _matrices(module.dense)
        return Cost(**found)

    def of_text(self, *, length: int, source_length: int = 0) -> int:
        """Of one text, every position of it scored, and its source."""
        return (
            length * (self.text + self.scored) + source_length * self.source + self.row + length**2 * self.text_pair
            + source_length**2 * self.source_pair + length * source_length * self.cross_pair
        )  # fmt: skip

    def of_batch(self, batch: Batch) -> int:
        """Of a batch's real tokens, forward and backward."""
        sizes = _sizes(batch.text.layout)
        total = int(sizes.sum()) * self.text + int((sizes**2).sum()) * self.text_pair
        total += len(batch.text.tokens) * self.row
        total += int((batch.targets != IGNORED).sum()) * self.scored
        if batch.source is not None:
            sources = _sizes(batch.source.layout)
            both = min(sizes.shape[1], sources.shape[1])
            total += int(sources.sum()) * self.source + int((sources**2).sum()) * self.source_pair
            total += int((sizes[:, :both] * sources[:, :both]).sum()) * self.cross_pair
        return (1 + BACKWARD) * total


def _matrices(module: nn.Module) -> int:
    """Numbers in the matrices of a module, those of its adapters included."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim == 2)


def _sizes(layout: Layout) -> Tensor:
    """Tokens of each text (B, n), n the most texts that share a row."""
    segments = layout.segments
    n = int(segments.max()) + 1
    rows = torch.arange(len(segments), device=segments.device)[:, None] * n
    counts = torch.bincount((segments + rows).reshape(-1), minlength=n * len(segments))
    return counts.view(-1, n)[:, 1:]
