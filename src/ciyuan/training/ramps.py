"""What grows in the course of a run: the batch of an update, and the length of rows of running text.

How far a run is counts in stages here, so that batches can be made ahead: within a stage nothing changes. A step's stage is in
the ledger, from which its batches can be made again.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from ciyuan.batch import IGNORED, PADDING, Batch, Layout, Stream
from ciyuan.training.settings import TrainingSettings

STAGES = 50
"""Of a whole run; one byte of the ledger holds a stage."""
PARTS = (4, 2)
"""How many pieces a row is cut into, in the first half of the length ramp and in the second."""


def stage_of(progress: float) -> int:
    """0 … STAGES."""
    return min(STAGES, int(progress * STAGES))


def batches_at(settings: TrainingSettings, stage: int) -> int:
    """How many batches make an update: from one, evenly up to all of `accumulate` at the end of the batch ramp."""
    if settings.batch_ramp == 0:
        return settings.accumulate
    done = stage / STAGES / settings.batch_ramp
    return min(settings.accumulate, 1 + int(done * settings.accumulate))


def parts_at(settings: TrainingSettings, stage: int) -> int:
    """How many pieces each row is cut into: fewer and fewer, and none once the length ramp is over."""
    if settings.length_ramp == 0:
        return 1
    done = stage / STAGES / settings.length_ramp
    return PARTS[int(done * len(PARTS))] if done < 1 else 1


def cut(batch: Batch, parts: int) -> Batch:
    """Rows of running text (B, T) cut into (B · parts, ⌈T / parts⌉), of which those without text are left out.

    What is asked and how much of it stays the same; only, nothing sees beyond the piece that it stands in, as if the row had been
    so short. Positions count from 0 in each piece of a text.
    Source: Press et al. 2021, Shortformer, §4 (staged training), whose batches keep their tokens likewise.
    """
    if parts == 1:
        return batch
    assert batch.source is None
    assert batch.text.token_types is None
    assert not batch.extra, "rows of running text alone can be cut"
    layout = batch.text.layout
    rows, width = batch.text.tokens.shape
    short = -(-width // parts)

    def pieces(table: torch.Tensor, filler: int) -> torch.Tensor:
        return F.pad(table, (0, short * parts - width), value=filler).view(rows * parts, short)

    segments = pieces(layout.segments, PADDING)
    held = (segments != PADDING).any(dim=1)
    segments = segments[held]
    columns = torch.arange(short).expand_as(segments)
    begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=True)
    positions = columns - torch.where(begins, columns, 0).cummax(dim=1).values
    text = segments != PADDING
    tokens, targets = (pieces(table, filler)[held] for table, filler in ((batch.text.tokens, 0), (batch.targets, IGNORED)))
    new = Layout(
        torch.where(text, positions, 0), segments, padded=not bool(text.all()),
        packed=bool((text & (positions != columns)).any()),
    )  # fmt: skip
    return replace(batch, text=Stream(tokens, new), targets=targets)
