"""The seam between data and training: what every objective offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ciyuan.batch import Batch, Loss
from ciyuan.model.transformer import Transformer


class Objective(Protocol):
    """A question put to a model, and how its answer is scored."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the token store that an example is made of."""

    def collate(self, examples: Sequence[Any], *, numbers: Sequence[int] = (), epoch: int = 0) -> Batch:
        """One batch from examples as the store gives them: a sequence of ids for each column.

        numbers: theirs in the store. epoch: how often they have been seen. Whatever is drawn (masks, random partners) is a pure
        function of the objective's seed, the epoch and each example's number, so that going on repeats it.
        """

    def loss(self, model: Transformer, batch: Batch, *, progress: float = 0.0) -> Loss:
        """The batch's loss as (sum, count), in nats. progress: how much of the run is over, 0 … 1, for what changes on the way."""
