"""What every evaluation gives back: a score card, and from it what is needed to compare two models on the same examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One example: what went in, what should and what did come out, and what looked wrong about it."""

    source: str
    reference: str
    output: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """A score as a function of sums over examples, so that it can be had of any choice of them.

    counts: (n, k), what each example adds. score: sums (…, k) to scores (…); NaN of nothing.
    """

    counts: Counts
    score: Callable[[Counts], Counts]
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        """Of all examples."""
        return float(self.score(self.counts.sum(axis=0, dtype=np.float64)))


@dataclass(frozen=True)
class LabelScore:
    """How well one label is told. precision, recall, f1: 0–100, 0 of nothing. examples: that should have it."""

    label: str
    precision: float
    recall: float
    f1: float
    examples: int


@dataclass(frozen=True)
class ConfusionMatrix:
    """counts[i][j]: examples that should have had label i and were given label j."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def _no_tallies() -> Mapping[str, Tally]:
    return {}


@dataclass(frozen=True)
class Scores:
    """A score card. metrics: by name; shares, F1, BLEU and chrF 0–100. signatures: of those that have one.

    examples: how many were scored. warnings: sentences for the user. rows: every example. labels, confusion: of a classifier.
    tallies: the metrics that `compare` can compare, worked out when it asks.
    """

    metrics: dict[str, float]
    signatures: dict[str, str]
    examples: int
    warnings: tuple[str, ...] = ()
    rows: tuple[Row, ...] = field(default=(), repr=False)
    labels: tuple[LabelScore, ...] = field(default=(), repr=False)
    confusion: ConfusionMatrix | None = field(default=None, repr=False)
    tallies: Callable[[], Mapping[str, Tally]] = field(default=_no_tallies, repr=False, compare=False)


def share(values: Sequence[float] | Counts) -> Tally:
    """The mean of a value 0 … 1 for each example, as a score 0–100."""
    first = np.asarray(values, dtype=np.float64)
    return Tally(np.stack([first, np.ones_like(first)], axis=-1), lambda sums: 100 * ratio(sums[..., 0], sums[..., 1]))


def ratio(above: Counts, below: Counts) -> Counts:
    """above / below, NaN where below is 0."""
    result: Counts = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) != 0)
    return result
