"""Texts side by side in the rows of a batch: padded, one a row, or packed, several a row that do not see one another.

A line is what becomes one row: the texts that share it. Shapes: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ciyuan.batch import Layout, Stream

Ids = Sequence[int] | NDArray[np.integer[Any]]
Row = NDArray[np.int64]


def padded(rows: Sequence[Row], filler: int) -> Tensor:
    """Rows of ids, filled at the right to the longest: (B, T) int64."""
    table = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(table)


def stream(rows: Sequence[Row], pad_id: int, token_types: Sequence[Row] | None = None) -> Stream:
    """One text a row, padded at the right."""
    layout = Layout.of_lengths([len(row) for row in rows])
    return Stream(padded(rows, pad_id), layout, None if token_types is None else padded(token_types, 0))


def packed(lines: Sequence[Sequence[Row]], pad_id: int) -> Stream:
    """The texts of each line one after another: segments 1, 2, …, positions from 0 in each."""
    if all(len(line) == 1 for line in lines):
        return stream([line[0] for line in lines], pad_id)
    tokens = padded([joined(line) for line in lines], pad_id)
    positions = padded([joined([np.arange(len(text)) for text in line]) for line in lines], 0)
    segments = padded([np.repeat(np.arange(len(line)) + 1, [len(text) for text in line]) for line in lines], 0)
    return Stream(tokens, Layout(positions, segments, padded=bool((segments == 0).any())))


def joined(texts: Sequence[Row]) -> Row:
    """The texts of a line as one row."""
    return np.concatenate([np.empty(0, dtype=np.int64), *texts])


def as_row(*parts: Ids | int | None) -> Row:
    """Ids and single ids, one after another; None stands for a marker that the vocabulary does not have."""
    return joined([np.asarray([part] if isinstance(part, int) else part, dtype=np.int64)
                   for part in parts if part is not None])  # fmt: skip


def numbered(examples: Sequence[Any], numbers: Sequence[int]) -> list[int]:
    """The examples' numbers; their places in the batch where none are given."""
    assert not numbers or len(numbers) == len(examples)
    return [int(number) for number in numbers] or list(range(len(examples)))
