"""Labels: how many examples each has, and whether some are one label in two spellings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ciyuan.data.checks import labels_of
from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context
from ciyuan.doctor.findings import Finding
from ciyuan.doctor.nearness import plain

FEWEST = 10
"""Examples of a label below which it can hardly be learnt."""
TIMES = 20
"""How many times as many the most frequent label may have as the rarest."""


class Labels:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.counts = Counter[str]()
        self.first: dict[str, Record] = {}

    def look(self, record: Record) -> Iterable[Finding]:
        for label in labels_of(record, self.context.corpus):
            if label.strip():
                self.counts[label] += 1
                self.first.setdefault(label, record)
        return ()

    def conclude(self) -> Iterator[Finding]:
        total = self.counts.total()
        for label, n in sorted(self.counts.items(), key=lambda item: item[1]):
            if n < min(FEWEST, total / 50):
                yield self._about("rare-label", label, f"{n:,} of {total:,}")
        by_spelling: dict[str, list[str]] = {}
        for label, _ in self.counts.most_common():
            by_spelling.setdefault(plain(label) or label, []).append(label)
        for spellings in by_spelling.values():
            for label in spellings[1:]:
                yield self._about(
                    "label-spelling", label, f"also spelt {spellings[0]!r}, {self.counts[spellings[0]]:,} times"
                )
        if len(self.counts) > 1:
            most, least = self.counts.most_common()[0], self.counts.most_common()[-1]
            if most[1] > TIMES * least[1]:
                yield Finding("imbalance", self.context.corpus.files[0], 0, most[0],
                              f"{most[1] / total:.0%} of all are {most[0][:40]!r}; {least[0][:40]!r} has {least[1]:,}")  # fmt: skip

    def _about(self, kind: str, label: str, note: str) -> Finding:
        record = self.first[label]
        return Finding(kind, record.file, record.line, label[:80], note)
