"""Texts as vectors, so that near in meaning is near in space. Shapes: B texts, T positions, D d_model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ciyuan.errors import UserError
from ciyuan.generation.translation import evaluating
from ciyuan.model.transformer import Transformer
from ciyuan.objectives.rows import Row, as_row
from ciyuan.prediction.reading import markers, read_together
from ciyuan.text import Tokenizer

Pooling = Literal["mean", "first", "last"]


def embed(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    pooling: Pooling | str = "mean",
    normalise: bool = True,
) -> Tensor:
    """(B, D): of the last hidden states (for an encoder–decoder: of its encoder's), markers such as [CLS] included.

    pooling: the mean over all tokens, the first or the last. normalise: to length 1. A text longer than the model's positions is
    read in parts, and nothing of it is left out of the mean. Raises UserError at an empty text that has no markers either.
    """
    if pooling not in ("mean", "first", "last"):
        raise UserError(f"pooling {pooling} is not known", allowed="mean, first or last")
    owners: list[int] = []
    rows: list[Row] = []
    for number, parts in enumerate(_parts(model, tokenizer, texts)):
        owners += [number] * len(parts)
        rows += parts
    dtype = next(model.parameters()).dtype
    sums, counts = torch.zeros(len(texts), model.config.d_model, dtype=dtype), torch.zeros(len(texts), dtype=dtype)
    firsts = {number: place for place, number in reversed(list(enumerate(owners)))}
    lasts = {number: place for place, number in enumerate(owners)}
    with evaluating(model), torch.inference_mode():
        for some, text in read_together(model, rows):
            hidden = (
                model.hidden(text) if model.encoder is None or model.decoder is None else model.encode(text)
            ).cpu()
            lengths = text.layout.is_text.sum(dim=1).tolist()
            for place, states, n in zip(some, hidden, lengths, strict=True):
                owner = owners[place]
                if pooling == "mean":
                    sums[owner] += states[:n].sum(dim=0)
                    counts[owner] += n
                elif place == (firsts if pooling == "first" else lasts)[owner]:
                    sums[owner], counts[owner] = states[0 if pooling == "first" else n - 1], 1
    vectors = sums / counts[:, None]
    return F.normalize(vectors, dim=-1) if normalise else vectors


def _parts(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[Row]]:
    """Each text as rows that the model can read, one or more."""
    head, tail = markers(model, tokenizer)
    room = model.config.max_positions - len(head) - len(tail)
    found = []
    for number, ids in enumerate(tokenizer.encode_batch(list(texts)) if texts else [], start=1):
        rows = [as_row(head, ids[start : start + room], tail) for start in range(0, max(1, len(ids)), room)]
        if not len(rows[0]):
            raise UserError(f"text {number} is empty", allowed="text with at least one token")
        found.append(rows)
    return found
