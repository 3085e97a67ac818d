"""The same checks, over some of the examples, before the first step: seconds that can save a night."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ciyuan.data.checks import Corpus
from ciyuan.data.readers import Record, read
from ciyuan.doctor.alignment import Alignment
from ciyuan.doctor.examination import checks_for, languages_of
from ciyuan.doctor.examining import Context, Places
from ciyuan.doctor.findings import KINDS, Finding, Findings
from ciyuan.doctor.repetition import near_leaks
from ciyuan.errors import DataError

MOST = 2000
"""Examples that are looked at, taken evenly from the whole."""
MOST_COMPARED = 100_000
"""Examples that are compared with dev."""
MOST_CHARACTERS = 1_000_000
"""Of the examples that are looked at; ten times as many of those that are compared with dev."""
NO_DOUBT = 40.0
"""Nats by which a stretch of pairs must fit another line better to be refused."""
NOTABLE = 0.02
"""Share of the examples with one fault above which it is a warning."""
MOST_SAID = 6
"""Kinds that are named in passing."""
SAID_ELSEWHERE = frozenset({"empty", "duplicate", "leak", "shifted", "near-leak", "rare-label", "long", "spacing"})
"""What the preparation counts or refuses, and what a sample cannot tell."""


@dataclass(frozen=True)
class Remarks:
    """messages: in passing. warnings: what should not be overlooked."""

    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def look_before_training(corpus: Corpus, *, most: int = MOST) -> Remarks:
    """What the doctor would say about the examples that will be learnt from. Raises DataError where pairs have slipped."""
    refuse_slips(corpus)
    n = int((corpus.verdicts.codes == 0).sum())
    sample = list(_up_to(MOST_CHARACTERS, itertools.islice(corpus.train(), 0, None, max(1, n // most))))
    groups = [group for group in Findings(_findings(corpus, sample)).groups() if KINDS[group.kind].severity != "note"]
    groups.sort(key=lambda group: -group.count)
    messages, warnings = [], []
    if groups:
        seen = ", ".join(
            f"{group.count:,} {KINDS[group.kind].title[0]} (line {group.places[0].line})"
            for group in groups[:MOST_SAID]
        )
        messages.append(f"the doctor looked at {len(sample):,} examples: {seen}; `ciyuan doctor` shows them all")
    for group in groups:
        kind = KINDS[group.kind]
        if kind.severity == "error" or group.count > NOTABLE * len(sample):
            share = group.count / max(1, len(sample))
            warnings.append(
                f"{share:.1%} of the examples looked at: {kind.title[0]} ({group.places[0].where}); {kind.advice[0]}"
            )
    compared = _up_to(10 * MOST_CHARACTERS, itertools.islice(corpus.train(), MOST_COMPARED))
    near = near_leaks(corpus, compared, corpus.dev)
    if near:
        line = f"{len(near):,} train examples are {KINDS['near-leak'].title[0]}, first {near[0].where}"
        (warnings if len(near) > NOTABLE * n else messages).append(line)
    return Remarks(tuple(messages), tuple(warnings))


def _up_to(most: int, records: Iterable[Record]) -> Iterator[Record]:
    """Records until they hold so many characters; at least one."""
    characters = 0
    for record in records:
        yield record
        characters += sum(map(len, record.fields.values()))
        if characters > most:
            return


def refuse_slips(corpus: Corpus) -> None:
    """Raises DataError where targets have slipped against their sources for long enough to leave no doubt."""
    if corpus.shape != "pairs":
        return
    alignment = Alignment(sure=NO_DOUBT)
    for record in read(corpus.files, corpus.columns):
        alignment.look(record)
    for slip in alignment.conclude():
        raise DataError("the targets have slipped against their sources", where=slip.where, allowed=slip.note,
                        fix="a line is missing or doubled on one side: compare the two from there")  # fmt: skip


def _findings(corpus: Corpus, sample: Sequence[Record]) -> Iterator[Finding]:
    def reread(places: Places) -> Iterator[tuple[int, Record]]:
        return ((place, sample[place]) for place in places)

    context = Context(corpus, languages_of(corpus, sample), reread, sample=sample, near=False)  # near repetitions are but noted
    checks = checks_for(context)
    for record in sample:
        for check in checks:
            yield from (finding for finding in check.look(record) if finding.kind not in SAID_ELSEWHERE)
    for check in checks:
        yield from (finding for finding in check.conclude() if finding.kind not in SAID_ELSEWHERE)
