"""How well texts are labelled: accuracy, F1 by label and over labels, and which label is taken for which.

Shapes: n examples, C labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ciyuan.errors import UserError
from ciyuan.evaluation.metrics import check_pairs
from ciyuan.evaluation.scores import ConfusionMatrix, Counts, LabelScore, Row, Scores, Tally, ratio, share


def evaluate_labels(
    given: Sequence[Collection[str]],
    wanted: Sequence[Collection[str]],
    labels: Sequence[str],
    *,
    multi_label: bool = False,
    texts: Sequence[str] | None = None,
) -> Scores:
    """Scores of the labels given to examples that should have had the wanted ones: one each, or any number where multi_label.

    One label each: accuracy, macro-F1 and the confusion matrix. Several: accuracy (all labels of an example right, none wrong),
    macro-F1 and micro-F1. macro_f1 is the mean over the labels that occur among the wanted or the given.
    labels: those the model knows; a wanted one that it does not know is counted as missed. Raises UserError as `check_pairs`.
    """
    check_pairs([",".join(names) for names in given], [",".join(names) for names in wanted])
    if not multi_label:
        for number, names in enumerate(wanted):
            if len(names) != 1:
                raise UserError(f"example {number + 1} has {len(names)} labels", allowed="exactly one label each")
    known = (*labels, *sorted({name for names in wanted for name in names} - set(labels)))
    mine, theirs = _table(given, known), _table(wanted, known)
    right = (mine == theirs).all(axis=1)
    macro, micro = _macro_tally(mine, theirs), _micro_tally(mine, theirs)
    tallies = {"macro_f1": macro, "accuracy": share(right)}
    if multi_label:
        tallies["micro_f1"] = micro
    unknown = len(known) - len(labels)
    return Scores(
        metrics={name: tally.value for name, tally in tallies.items()},
        signatures={"macro_f1": f"mean over {int(_occurring(mine, theirs).sum())} labels"},
        examples=len(given),
        warnings=(f"{unknown} labels of the examples are unknown to the model",) if unknown else (),
        rows=tuple(
            Row(text, ", ".join(sorted(names)), ", ".join(sorted(found)))
            for text, names, found in zip([""] * len(given) if texts is None else texts, wanted, given, strict=True)
        ),
        labels=_by_label(mine, theirs, known),
        confusion=None if multi_label else _confusion(mine, theirs, known),
        tallies=lambda: tallies,
    )


def _table(chosen: Sequence[Collection[str]], labels: Sequence[str]) -> NDArray[np.uint8]:
    """(n, C): 1 where an example has a label."""
    places = {label: i for i, label in enumerate(labels)}
    table = np.zeros((len(chosen), len(labels)), dtype=np.uint8)
    for row, names in enumerate(chosen):
        for name in names:
            table[row, places[name]] = 1
    return table


def _occurring(mine: Counts, theirs: Counts) -> Counts:
    found: Counts = (mine.sum(axis=0) + theirs.sum(axis=0)) > 0
    return found


def _macro_tally(mine: Counts, theirs: Counts) -> Tally:
    """Each example adds, for each label, whether it is rightly given, and given plus wanted: F1 = 2 right / (given + wanted)."""
    n_labels = mine.shape[1]

    def score(sums: Counts) -> Counts:
        by_label = ratio(2 * sums[..., :n_labels], sums[..., n_labels:])
        occurs = ~np.isnan(by_label)
        return 100 * ratio(np.where(occurs, by_label, 0.0).sum(axis=-1), occurs.sum(axis=-1))

    return Tally(np.concatenate([mine & theirs, mine + theirs], axis=1), score)


def _micro_tally(mine: Counts, theirs: Counts) -> Tally:
    right, either = (mine & theirs).sum(axis=1, dtype=np.int64), (mine + theirs).sum(axis=1, dtype=np.int64)
    return Tally(np.stack([right, either], axis=1), lambda sums: 100 * ratio(2 * sums[..., 0], sums[..., 1]))


def _by_label(mine: Counts, theirs: Counts, labels: Sequence[str]) -> tuple[LabelScore, ...]:
    right, given, wanted = ((table.sum(axis=0, dtype=np.int64)) for table in (mine & theirs, mine, theirs))
    precision, recall, f1 = (100 * np.nan_to_num(ratio(a, b)) for a, b in (
        (right, given), (right, wanted), (2 * right, given + wanted)
    ))  # fmt: skip
    return tuple(
        LabelScore(label, float(precision[i]), float(recall[i]), float(f1[i]), int(wanted[i]))
        for i, label in enumerate(labels)
    )


def _confusion(mine: Counts, theirs: Counts, labels: Sequence[str]) -> ConfusionMatrix:
    counts = theirs.astype(np.int64).T @ mine.astype(np.int64)
    return ConfusionMatrix(tuple(labels), tuple(tuple(map(int, row)) for row in counts))
