"""Where the targets slip against their sources: a stretch of pairs of which each target fits the source of another line better."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context
from ciyuan.doctor.findings import Finding, excerpt
from ciyuan.doctor.pairs import weight

REACH = 3
"""Lines by which a slip is looked for."""
SURE = 14.0
"""How many nats better a stretch fits at another line before it is said, net of what chance gives."""
TOLL = 0.7
"""Nats each line must be better by, so that a stretch does not run on into lines that fit either way."""
FEWEST = 6
"""Lines of a stretch."""
ANCHOR = re.compile(r"\d+|[A-Za-z][A-Za-z0-9_]{2,}")
ENDS = {".": ".", "。": ".", "!": "!", "！": "!", "?": "?", "？": "?", ":": ":", "：": ":", ";": ";", "；": ";"}


@dataclass(frozen=True, slots=True)
class _Side:
    size: float
    anchors: frozenset[str]
    end: str


@dataclass
class _Run:
    """The best stretch for one slip so far: Kadane's sum, where it began, where it was highest."""

    total: float = 0.0
    start: Record | None = None
    best: float = 0.0
    end: Record | None = None
    lines: int = 0
    best_lines: int = 0


class Alignment:
    """Reads the pairs once, holding a few at a time. A slip by k: the target at line i + k belongs to the source at line i."""

    def __init__(self, context: Context | None = None, *, sure: float = SURE) -> None:
        self.sure = sure
        self.pairs: deque[tuple[Record, _Side, _Side]] = deque(maxlen=2 * REACH + 1)
        self.runs = {k: _Run() for k in range(-REACH, REACH + 1) if k}
        self.file = ""
        self.ratio = 0.0
        self.n = 0
        self.stretches: list[Finding] = []

    def look(self, record: Record) -> Iterable[Finding]:
        if record.file != self.file:
            self._end_file()
            self.file = record.file
        source, target = record.fields["source"], record.fields["target"]
        if not source.strip() or not target.strip():
            return ()
        sides = _side(source), _side(target)
        log = sides[1].size - sides[0].size
        self.n += 1
        self.ratio += (max(-1.5, min(1.5, log)) - self.ratio) / min(self.n, 500)
        self.pairs.append((record, *sides))
        if len(self.pairs) == 2 * REACH + 1:
            self._weigh(REACH)
        return ()

    def conclude(self) -> Iterator[Finding]:
        self._end_file()
        for one in self.stretches:  # within a long stretch a short one may fit yet another line by chance
            if not any(other is not one and _holds(other, one) for other in self.stretches):
                yield one

    def _weigh(self, middle: int) -> None:
        record, _, target = self.pairs[middle]
        own = self._fit(self.pairs[middle][1], target)
        for k in self.runs:
            if not 0 <= middle - k < len(self.pairs):
                continue
            gain = self._fit(self.pairs[middle - k][1], target) - own - TOLL
            if self.runs[k].total <= 0:
                self._close(k)
                self.runs[k].start = record
            run = self.runs[k]
            run.total += gain
            run.lines += 1
            if run.total > run.best:
                run.best, run.end, run.best_lines = run.total, record, run.lines
            elif run.best > self.sure and run.total < run.best - self.sure:
                self._close(k)

    def _close(self, k: int) -> None:
        run = self.runs[k]
        if run.best > self.sure and run.best_lines >= FEWEST:
            assert run.start is not None
            assert run.end is not None
            lines = f"{abs(k)} line{'' if abs(k) == 1 else 's'} {'earlier' if k > 0 else 'later'}"
            self.stretches.append(
                Finding(
                    "shifted",
                    run.start.file,
                    run.start.line,
                    excerpt(" ⇥ ".join(run.start.fields.values())),
                    f"up to line {run.end.line} a target fits the source {lines} better",
                    last=run.end.line,
                )
            )
        self.runs[k] = _Run()

    def _end_file(self) -> None:
        for middle in range(REACH + 1, len(self.pairs)):
            self._weigh(middle)
        for k in self.runs:
            self._close(k)
        self.pairs.clear()

    def _fit(self, source: _Side, target: _Side) -> float:
        """How well they go together, in nats: 0 at best."""
        off = (target.size - source.size - self.ratio) / (
            0.25 + 1.2 / math.sqrt(1 + math.exp(min(source.size, target.size)))
        )
        fit = -min(4.0, 0.5 * off * off)
        either = source.anchors | target.anchors
        if either:
            shared = len(source.anchors & target.anchors)
            both = source.anchors and target.anchors
            fit -= 4.0 * (1 - shared / len(either)) if both else 1.5
        return fit - (0.7 if source.end != target.end else 0.0)


def _holds(outer: Finding, inner: Finding) -> bool:
    ends = outer.last or outer.line, inner.last or inner.line
    return (
        outer.file == inner.file and outer.line <= inner.line <= ends[0] and ends[0] - outer.line > ends[1] - inner.line
    )


def _side(text: str) -> _Side:
    text = text.strip()
    return _Side(
        math.log(weight(text)), frozenset(word.casefold() for word in ANCHOR.findall(text)), ENDS.get(text[-1], "")
    )
