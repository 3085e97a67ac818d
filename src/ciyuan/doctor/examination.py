"""Look at every example of some files, and say what is wrong with which."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ciyuan.data.checks import Corpus, Shape
from ciyuan.data.readers import Columns, Record, Tally, corpora, read
from ciyuan.data.readers.files import suffixes
from ciyuan.data.readers.record import looks_like_a_language
from ciyuan.data.readers.tables import NotParallelError
from ciyuan.data.settings import DataSettings
from ciyuan.doctor.alignment import Alignment
from ciyuan.doctor.answers import Answers, Turns
from ciyuan.doctor.characters import Characters
from ciyuan.doctor.examining import Check, Context, OneByOne, Places, found
from ciyuan.doctor.findings import SEVERITIES, Finding, Findings, Group, Severity, excerpt
from ciyuan.doctor.labels import Labels
from ciyuan.doctor.lengths import Sizes, Truncation
from ciyuan.doctor.pairs import Agreement, Lengths
from ciyuan.doctor.raw import look_at_bytes
from ciyuan.doctor.repetition import Repetition
from ciyuan.doctor.scripts import Languages, main_language
from ciyuan.errors import DataError
from ciyuan.text import Tokenizer

SAMPLED = 300
"""Examples by which the language of a column is told."""
SAMPLED_OF = 3000
"""Examples at the start of the files, of which they are taken evenly."""


class Emptiness(OneByOne):
    """Nothing where a text should be."""

    def __init__(self, context: Context) -> None:
        self.may_be_empty = context.corpus.may_be_empty

    def look(self, record: Record) -> Iterator[Finding]:
        lacking = [role for role, text in record.fields.items() if not text.strip() and role not in self.may_be_empty]
        if lacking:
            yield found("empty", record, " ⇥ ".join(record.fields.values()), ", ".join(lacking))


ALL: frozenset[Shape] = frozenset({"pairs", "texts", "labelled", "answers", "chats"})
CHECKS: Sequence[tuple[Callable[[Context], Check], frozenset[Shape]]] = (
    (Emptiness, ALL),
    (Characters, ALL),
    (Languages, ALL - {"chats"}),
    (Agreement, frozenset({"pairs"})),
    (Alignment, frozenset({"pairs"})),
    (Lengths, frozenset({"pairs"})),
    (Repetition, ALL),
    (Sizes, ALL),
    (Labels, frozenset({"labelled"})),
    (Answers, frozenset({"answers"})),
    (Turns, frozenset({"chats"})),
)
"""Each check, and the shapes of data that it is for. Truncation comes with a tokeniser."""


@dataclass(frozen=True)
class Examination:
    """What was found. seconds: that it took. dropped: the kind for each (file, line) that `--fix` leaves out."""

    files: tuple[str, ...]
    shape: Shape
    languages: Mapping[str, str]
    examples: int
    seconds: float
    groups: Sequence[Group]
    notes: Sequence[str] = ()
    dropped: Mapping[tuple[str, int], str] = field(default_factory=dict)

    def count(self, severity: Severity) -> int:
        return sum(group.count for group in self.groups if group.severity == severity)

    def at_least(self, severity: Severity) -> int:
        """Findings of this severity or a worse one."""
        return sum(map(self.count, SEVERITIES[: SEVERITIES.index(severity) + 1]))


def examine(
    settings: DataSettings,
    shape: Shape,
    *,
    tokenizer: Tokenizer | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> Examination:
    """Every check that is for this shape, over settings.train; leaks against settings.dev where that is a file.

    progress: is told now and then how many examples have been seen. Raises DataError for a file that is not there or of no known
    format; what is wrong within a file is found, not raised.
    """
    began = time.monotonic()
    corpus = Corpus(settings, shape)
    findings = Findings()
    for path in corpus.files:
        with contextlib.suppress(DataError):  # the reader says it again, with its line
            findings.extend(look_at_bytes(path))
    context = _context(corpus, tokenizer, findings)
    checks = checks_for(context)
    tally, n = Tally(), 0
    for n, record in enumerate(tolerant(corpus.files, corpus.columns, tally, findings), start=1):
        for check in checks:
            findings.extend(check.look(record))
        if n % 1000 == 0:
            progress(n)
    for check in checks:
        findings.extend(check.conclude())
    if n == 0:
        findings.append(Finding("unreadable", corpus.files[0], 0, note="no example that can be read"))
    skipped = [f"passed over: {count:,} {reason}" for reason, count in tally.skipped.items()]
    return Examination(corpus.files, shape, context.languages, n, time.monotonic() - began, findings.groups(corpus.files),
                       (*tally.notes, *skipped), findings.dropped)  # fmt: skip


def checks_for(context: Context) -> list[Check]:
    made = [make(context) for make, shapes in CHECKS if context.shape in shapes]
    return made if context.tokenizer is None else [*made, Truncation(context)]


def _context(corpus: Corpus, tokenizer: Tokenizer | None, findings: Findings) -> Context:
    dev = list(tolerant(corpus.dev_files, corpus.dev_columns, Tally(), findings)) if corpus.dev_files else []

    def reread(places: Places) -> Iterator[tuple[int, Record]]:
        wanted = iter(places)
        place = next(wanted, None)
        if place is None:
            return
        for i, record in enumerate(tolerant(corpus.files, corpus.columns, Tally(), Findings())):
            if i == place:
                yield i, record
                place = next(wanted, None)
                if place is None:
                    return

    sample = list(itertools.islice(tolerant(corpus.files, corpus.columns, Tally(), Findings()), SAMPLED_OF))
    sample = sample[:: max(1, len(sample) // SAMPLED)]
    return Context(corpus, languages_of(corpus, sample), reread, dev, sample, tokenizer, corpus.settings.max_length)


def languages_of(corpus: Corpus, sample: Sequence[Record]) -> dict[str, str]:
    """By role: what the user said, else what the sample seems to be in, with a region where a file's name has one."""
    said = {
        role: name for role, name in corpus.columns.names.items() if name is not None and looks_like_a_language(name)
    }
    for path in corpus.files:
        for role in corpus.columns.roles:
            ending = suffixes(path)[1][1:]
            if looks_like_a_language(ending) and role not in said and corpus.shape == "pairs":
                texts = [record.fields[role] for record in sample]
                if main_language(texts) == ending.replace("_", "-").split("-")[0]:
                    said[role] = ending
    for role in corpus.columns.roles:
        if role not in said and role not in ("label", "chat") and sample:
            language = main_language([record.fields[role] for record in sample])
            if language:
                said[role] = language
    return {role: said[role] for role in corpus.columns.roles if role in said}


def tolerant(files: Sequence[str], columns: Columns, tally: Tally, findings: Findings) -> Iterator[Record]:
    """The records of files. Each goes on after an example that cannot be read, and ends where no reader could go on."""
    tally.faults = lambda error: findings.append(_unreadable(error))
    for corpus in corpora(files, columns):
        try:
            yield from read(corpus, columns, tally)
        except DataError as error:
            findings.append(_unreadable(error, "nothing after it was read"))


def _unreadable(error: DataError, note: str = "") -> Finding:
    file, _, line = str(error.where or "").rpartition(":")
    place = (file, int(line)) if file and line.isdecimal() else (str(error.where or ""), 0)
    kind = "unparallel" if isinstance(error, NotParallelError) else "unreadable"
    return Finding(kind, *place, note=excerpt("; ".join(filter(None, (error.found, note)))))
