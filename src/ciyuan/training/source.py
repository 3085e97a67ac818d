"""Where batches come from: a pure function of their number and of the stage of the run, so that going on needs no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ciyuan.batch import Batch
from ciyuan.data.loader import Loader
from ciyuan.data.prefetch import Prefetch
from ciyuan.training.ramps import STAGES, cut, parts_at
from ciyuan.training.settings import TrainingSettings

Examples = Callable[[np.ndarray[Any, Any]], Sequence[Any]]
"""Example numbers to examples, as an objective collates them: a token store's `examples`."""


Change = Callable[[Sequence[Any], Sequence[int], int], Sequence[Any]]
"""Examples, their numbers and the epoch, to the examples as they are learnt from this time: a pure function of the three."""


class Source(Protocol):
    """Batches by number. Called from another thread than the one that trains; draws nothing from global generators."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints, equal batches."""

    @property
    def moves(self) -> bool:
        """Whether the stage has a part in what a batch is."""

    def batch(self, number: int, stage: int) -> Batch | None:
        """The batch of that number, from 0 over the whole run, at a stage of it. None where this rank has no part in it."""

    def where(self, number: int) -> tuple[int, float]:
        """The epoch after so many batches, and how much of it is done, 0 … 1."""


class LoaderSource:
    """Batches that a loader plans and an objective collates."""

    def __init__(
        self,
        collate: Callable[..., Batch],
        examples: Examples,
        loader: Loader,
        settings: TrainingSettings | None = None,
        *,
        change: Change | None = None,
        asks_by_progress: bool = False,
    ) -> None:
        """settings: for the length ramp, if any. change: of examples, before they are collated. asks_by_progress: whether what is
        asked depends on how far the run is; `collate` is then told."""
        self._collate, self._examples, self._loader, self._settings = collate, examples, loader, settings
        self._change, self._asks_by_progress = change, asks_by_progress

    @property
    def fingerprint(self) -> str:
        return self._loader.fingerprint

    @property
    def moves(self) -> bool:
        return self._asks_by_progress or (self._settings is not None and self._settings.length_ramp > 0)

    def batch(self, number: int, stage: int) -> Batch | None:
        epoch, numbers = self._loader.at(number)
        if len(numbers) == 0:
            return None
        examples, chosen = self._examples(numbers), numbers.tolist()
        if self._change is not None:
            examples = self._change(examples, chosen, epoch)
        moving: dict[str, Any] = {"progress": stage / STAGES} if self._asks_by_progress else {}
        batch = self._collate(examples, numbers=chosen, epoch=epoch, **moving)
        return batch if self._settings is None else cut(batch, parts_at(self._settings, stage))

    def where(self, number: int) -> tuple[int, float]:
        epoch, position = divmod(number, self._loader.steps_per_epoch(0))
        return epoch, position / self._loader.steps_per_epoch(0)


class Ahead:
    """The batches of a source one after another, some of them made ahead; made anew where the stage changes what they are.

    A context manager: leaving it stops the thread that makes them.
    """

    STEPS = 4
    """How many updates' batches are made ahead."""

    def __init__(self, source: Source, number: int, *, accumulate: int) -> None:
        """number: of the first batch to give. accumulate: batches of an update, at most."""
        self._source, self._number, self._depth = source, number, self.STEPS * accumulate
        self._stage = 0
        self._made: Prefetch[Batch | None] | None = None

    def take(self, n: int, stage: int) -> list[Batch | None]:
        """The next n batches, as they are at the stage."""
        if self._made is None or (self._source.moves and stage != self._stage):
            self.close()
            self._stage = stage
            self._made = Prefetch(self._from(self._number, stage), depth=self._depth)
        self._number += n
        return [next(self._made) for _ in range(n)]

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _from(self, number: int, stage: int) -> Iterator[Batch | None]:
        while True:
            yield self._source.batch(number, stage)
            number += 1
