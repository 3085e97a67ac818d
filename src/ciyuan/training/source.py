"""Where a step's batches come from: a pure function of the step's number, so that going on needs no more than the number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ciyuan.batch import Batch
from ciyuan.data.loader import Loader

Examples = Callable[[np.ndarray[Any, Any]], Sequence[Any]]
"""Example numbers to examples, as an objective collates them: a token store's `examples`."""


class Source(Protocol):
    """Batches by number. Called from another thread than the one that trains; draws nothing from global generators."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints, equal batches."""

    def batch(self, step: int, micro: int) -> Batch | None:
        """Micro-batch `micro` of a step, both from 0. None where this rank has no part in it."""

    def where(self, step: int) -> tuple[int, float]:
        """The epoch after `step` steps, and how much of it is done, 0 … 1."""


class LoaderSource:
    """Batches that a loader plans and an objective collates, `accumulate` of them a step."""

    def __init__(
        self, collate: Callable[..., Batch], examples: Examples, loader: Loader, *, accumulate: int = 1
    ) -> None:
        self._collate, self._examples, self._loader, self._accumulate = collate, examples, loader, accumulate

    @property
    def fingerprint(self) -> str:
        return self._loader.fingerprint

    def batch(self, step: int, micro: int) -> Batch | None:
        epoch, numbers = self._loader.at(step * self._accumulate + micro)
        if len(numbers) == 0:
            return None
        return self._collate(self._examples(numbers), numbers=numbers.tolist(), epoch=epoch)

    def where(self, step: int) -> tuple[int, float]:
        epoch, position = divmod(step * self._accumulate, self._loader.steps_per_epoch(0))
        return epoch, position / self._loader.steps_per_epoch(0)
