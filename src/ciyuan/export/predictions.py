"""Whether two models, asked the same, predict the same next token: by how likely they hold each, and which they hold likeliest.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ciyuan.export.probe import Array


@dataclass(frozen=True)
class Lost:
    """A prediction whose likeliest token is another there. row, position: where. margin: by how many nats ours led its second."""

    row: int
    position: int
    ours: int
    theirs: int
    margin: float


@dataclass
class Predictions:
    """Ours beside theirs, gathered row by row. divergences, margins: (T,) in nats, one array for each row; lost: of all rows."""

    divergences: list[Array] = field(default_factory=list)
    margins: list[Array] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    def add(self, row: int, ours: Array, theirs: Array) -> None:
        """ours, theirs: logits (T, V). What is no number there gives a divergence that is none."""
        with np.errstate(invalid="ignore"):
            mine, other = _log_probs(ours), _log_probs(theirs)
            self.divergences.append((np.exp(mine) * (mine - other)).sum(axis=-1))  # KL(ours ‖ theirs)
        second, first = np.partition(mine, -2, axis=-1)[:, -2:].T  # (T,) each
        self.margins.append(first - second)
        best, chosen = mine.argmax(axis=-1), other.argmax(axis=-1)
        for position in np.flatnonzero(best != chosen).tolist():
            margin = float(first[position] - second[position])
            self.lost.append(Lost(row, position, int(best[position]), int(chosen[position]), margin))

    @property
    def count(self) -> int:
        return sum(map(len, self.margins))

    @property
    def divergence(self) -> float:
        """The mean, in nats; 0 where nothing was asked."""
        return float(np.concatenate(self.divergences).mean()) if self.count else 0.0

    @property
    def usual_margin(self) -> float:
        """The median, in nats."""
        return float(np.median(np.concatenate(self.margins))) if self.count else 0.0

    @property
    def worst(self) -> Lost | None:
        """The lost prediction whose token led the furthest."""
        return max(self.lost, key=lambda lost: lost.margin, default=None)


def _log_probs(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
