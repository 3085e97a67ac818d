"""The labels of a classifier as config.json has them: id2label, label2id and problem_type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ciyuan.errors import ModelFolderError
from ciyuan.interop.mapping import shown_name
from ciyuan.interop.settings import TheirSettings

MULTI_LABEL = "multi_label_classification"
PROBLEMS = {"single_label_classification": False, MULTI_LABEL: True}
"""Their problem_type to ours. A regression has no labels, and is refused."""
MOST = 2**20


def write_labels(labels: Sequence[str] | None, n_labels: int, *, multi_label: bool) -> dict[str, object]:
    """What config.json says of them; without names, those that transformers gives. Raises ModelFolderError where they do not fit.

    >>> write_labels(["yes", "no"], 2, multi_label=False)["id2label"]
    {'0': 'yes', '1': 'no'}
    """
    names = [f"LABEL_{i}" for i in range(n_labels)] if labels is None else list(labels)
    if len(names) != n_labels or len(set(names)) != n_labels or not all(isinstance(name, str) for name in names):
        raise ModelFolderError(
            f"{len(names)} labels, {len(set(map(str, names)))} of them different, for a classifier of {n_labels}",
            allowed="each label once",
        )
    written: dict[str, object] = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if multi_label or n_labels > 1:  # transformers refuses to choose one label of one
        written["problem_type"] = MULTI_LABEL if multi_label else "single_label_classification"
    return written


def read_labels(theirs: TheirSettings) -> list[str]:
    """The labels in their order. Raises ModelFolderError where they are not numbered from 0, or the model is a regression."""
    read_multi_label(theirs)
    found = theirs.mapping("id2label")
    if found is None:
        return [f"LABEL_{i}" for i in range(theirs.whole("num_labels", 2, high=MOST))]
    theirs.must("num_labels", len(found))
    names = [found.get(str(i)) for i in range(len(found))]
    labels = [name for name in names if isinstance(name, str)]
    if not labels or len(labels) != len(names):
        missing = next((i for i, name in enumerate(names) if not isinstance(name, str)), 0)
        raise ModelFolderError(f"id2label has no name for label {missing}", where=theirs.where)
    if len(set(labels)) != len(labels):
        twice, times = Counter(labels).most_common(1)[0]
        raise ModelFolderError(f"id2label has {shown_name(twice)} {times} times", where=theirs.where)
    return labels


def read_multi_label(theirs: TheirSettings) -> bool:
    """Whether a text may have several labels."""
    return theirs.choice("problem_type", PROBLEMS, "single_label_classification")
