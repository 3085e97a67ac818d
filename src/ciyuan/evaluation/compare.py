"""Is one model better than another, or was it luck? The same examples drawn again and again, both models scored on each draw.

Source: Koehn 2004, Statistical significance tests for machine translation evaluation (paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ciyuan.errors import UserError
from ciyuan.evaluation.scores import Counts, Scores, Tally

SAMPLES = 2000
LEVEL = 0.05
"""A difference that chance would make less often than this is called real."""
FEWEST = 20
"""Examples below which resampling says nothing."""


@dataclass(frozen=True)
class Comparison:
    """Two models' scores by one metric on the same examples.

    difference: first − second. low, high: its 95 % interval. p_value: two-sided, how often chance alone would turn the sign.
    better: whichever is really better, None where that cannot be said. verdict: the same as a sentence.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    better: str | None
    verdict: str


def compare(
    first: Scores,
    second: Scores,
    *,
    names: tuple[str, str] = ("the first model", "the second model"),
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Comparison]:
    """By each metric that both score cards tally. Raises UserError where they are not of the same examples.

    names: of the models, for the verdicts. samples: how often the examples are drawn; the same seed draws the same.
    """
    if [(row.source, row.reference) for row in first.rows] != [(row.source, row.reference) for row in second.rows]:
        raise UserError("the two models were not scored on the same examples", fix="evaluate both on the same data")
    theirs: Mapping[str, Tally] = second.tallies()
    return {
        metric: _compared(metric, tally, theirs[metric], names=names, samples=samples, seed=seed)
        for metric, tally in first.tallies().items()
        if metric in theirs
    }


def _compared(metric: str, mine: Tally, other: Tally, *, names: tuple[str, str], samples: int, seed: int) -> Comparison:
    n = len(mine.counts)
    if n != len(other.counts):
        raise UserError(f"{metric} is of {n} examples for {names[0]} and of {len(other.counts)} for {names[1]}",
                        fix="evaluate both on the same data")  # fmt: skip
    first, second = mine.value, other.value
    if not n:
        return Comparison(
            metric, first, second, np.nan, np.nan, np.nan, 1.0, None, f"no example to compare {metric} on"
        )
    drawn = paired_differences(mine, other, samples=samples, seed=seed)
    drawn = drawn[~np.isnan(drawn)]
    low, high = (
        (float(edge) for edge in np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])) if len(drawn) else (np.nan,) * 2
    )
    turned = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p_value = float(min(1.0, 2 * (1 + turned) / (1 + len(drawn))))
    better = None
    if n >= FEWEST and p_value < LEVEL:
        better = names[0] if (first > second) == mine.higher_is_better else names[1]
    found = Comparison(metric, first, second, first - second, low, high, p_value, better, "")
    return Comparison(**{**vars(found), "verdict": _verdict(found, names, n)})


def paired_differences(mine: Tally, other: Tally, *, samples: int, seed: int) -> Counts:
    """(samples,) differences of the two scores, each over n examples drawn with replacement, the same for both."""
    generator = np.random.Generator(np.random.PCG64(seed))
    n = len(mine.counts)
    together = np.concatenate([mine.counts, other.counts], axis=1).astype(np.float64)
    k = mine.counts.shape[1]
    differences = np.empty(samples)
    for i in range(samples):
        times = np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)
        sums = times @ together
        differences[i] = mine.score(sums[:k]) - other.score(sums[k:])
    return differences


def _verdict(found: Comparison, names: tuple[str, str], n: int) -> str:
    head = f"{names[0]} {found.first:.3f}, {names[1]} {found.second:.3f}, difference {found.difference:+.3f}"
    interval = f"95% interval {found.low:+.3f} … {found.high:+.3f}, p = {found.p_value:.3f}"
    if n < FEWEST:
        return f"{found.metric}: {head}: {n} examples are too few to tell whether it is real"
    if found.better is None:
        return f"{found.metric}: {head} ({interval}): it may well be chance"
    return f"{found.metric}: {head} ({interval}): {found.better} is really better"
