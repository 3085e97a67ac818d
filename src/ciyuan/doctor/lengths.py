"""Texts that are too long: for the others' company, and for the model."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context, found, prose
from ciyuan.doctor.findings import Finding

CHUNK = 256
FEW_LEARNT = 0.05


class Sizes:
    """Texts far longer than the others: more than FAR spreads above the median, on the scale of logarithms."""

    FAR = 5.0
    FEWEST = 50

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sizes = array("L")

    def look(self, record: Record) -> Iterable[Finding]:
        self.sizes.append(max((len(text) for _, text in prose(record)), default=0))
        return ()

    def conclude(self) -> Iterator[Finding]:
        if len(self.sizes) < self.FEWEST or self.context.shape == "texts":  # a document may be as long as it likes
            return
        logs = np.log1p(np.array(self.sizes, np.float64))
        low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
        usual = float(np.quantile(logs, 0.99))
        far = np.flatnonzero((logs > middle + self.FAR * max(0.3, (high - low) / 1.349)) | (logs > usual + np.log(4)))
        for _, record in self.context.reread(far.tolist()):
            size = max(len(text) for _, text in prose(record))
            yield found("long", record, note=f"{size:,} characters, half of all have at most {np.expm1(middle):,.0f}")


class Truncation:
    """What is lost at the length that the model reads, in tokens, and how much of what is read is learnt."""

    def __init__(self, context: Context) -> None:
        assert context.tokenizer is not None
        self.context, self.tokenizer = context, context.tokenizer
        self.waiting: list[Record] = []
        self.learnt = self.read = 0

    def look(self, record: Record) -> Iterable[Finding]:
        self.waiting.append(record)
        return self._work() if len(self.waiting) >= CHUNK else ()

    def conclude(self) -> Iterator[Finding]:
        yield from self._work()
        if self.read and self.learnt < FEW_LEARNT * self.read:
            yield Finding("supervised", self.context.corpus.files[0], 0,
                          note=f"{self.learnt:,} of {self.read:,} tokens ({self.learnt / self.read:.1%})")  # fmt: skip

    def _work(self) -> list[Finding]:
        records, self.waiting = self.waiting, []
        flat = [(record, role, text) for record in records for role, text in prose(record)]
        ids = self.tokenizer.encode_batch([text for _, _, text in flat])
        findings: list[Finding] = []
        totals: dict[int, int] = {}
        for (record, role, text), tokens in zip(flat, ids, strict=True):
            self.read += len(tokens)
            self.learnt += len(tokens) if role in ("target", "text", "answer", "assistant") else 0
            totals[id(record)] = totals.get(id(record), 0) + len(tokens)
            alone = self.context.shape in ("pairs", "labelled")
            size = len(tokens) if alone else totals[id(record)]
            if size > self.context.max_length and self.context.shape != "texts":
                findings.append(
                    found("truncation", record, text, f"{role}: {size:,} tokens, {self.context.max_length:,} are read")
                )
                if not alone:
                    totals[id(record)] = -(10**9)  # said once
        return findings
