"""One example as it stood in a file, and how its fields are found by name."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ciyuan.errors import DataError, did_you_mean


@dataclass(slots=True)
class Record:
    """One example: its text by role ("source", "target", "text", "label", …), and where it was found.

    line: counts from 1; the row in Parquet, the question in SQuAD's JSON. group: the document, or the value of `data.group`: what
    shares one is never split between train and dev. lines: of the text, by which a dev set of texts is measured.
    answers: all that count as right, the first of them the field "answer"; none where the passage does not hold it.
    start: where the first stands in the passage, in characters; -1 where that is not known. turns: (role, words) of a conversation.
    """

    fields: dict[str, str]
    file: str
    line: int
    group: str | None = None
    lines: int = 1
    answers: tuple[str, ...] = ()
    start: int = -1
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a text that may have several, none included: a line of the field each."""
        return tuple(self.fields["label"].split("\n")) if self.fields["label"] else ()

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Tally:
    """What a reader passed over, by reason, and what it decided on its own: to be said, never silent.

    faults: where given, is told what makes an example unreadable, and the reader goes on with the next; else that is raised.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)  # an ordered set
    faults: Callable[[DataError], None] | None = None

    def note(self, text: str) -> None:
        self.notes[text] = None

    def refuse(self, error: DataError) -> None:
        if self.faults is None:
            raise error
        self.faults(error)


@dataclass(frozen=True, slots=True)
class Columns:
    """What is looked for in a file: for each role the name the user gave it, or None; and the name of the group.

    optional: roles that a file may lack, whose text is then empty. label_separator: where given, a label is a list, or several
    in one text that it parts.
    """

    names: Mapping[str, str | None]
    group: str | None = None
    optional: frozenset[str] = frozenset()
    label_separator: str | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.names)


ANSWERS = ("question", "passage", "answer")
"""The roles of a question about a passage."""

CHATS = ("chat",)
"""The role of a conversation."""

ALIASES = {"passage": "context", "answer": "answers"}
"""Further names of a role's field: SQuAD's."""


def same_language(found: str, wanted: str) -> bool:
    """Whether a column or file named `found` holds the language `wanted`: en holds en-US and en_us; zh-CN not zh-TW.

    >>> same_language("en-US", "en"), same_language("zh", "zh-CN"), same_language("zh-TW", "zh-CN")
    (True, True, False)
    """
    one, two = found.lower().replace("_", "-"), wanted.lower().replace("_", "-")
    return one == two or one.startswith(two + "-") or two.startswith(one + "-")


def looks_like_a_language(name: str) -> bool:
    """en, zh-CN, pt_BR, zh-Hans-CN, but not text or id5."""
    return re.fullmatch(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,4}){0,2}", name) is not None and name != "id"


def find(role: str, wanted: str | None, names: Sequence[str]) -> str | None:
    """The name among `names` that plays `role`: what the user asked for, in any regional form, or the role's own name."""
    if wanted is not None:
        if wanted in names:
            return wanted
        close = [name for name in names if same_language(name, wanted)]
        if len(close) == 1:
            return close[0]
    return next((name for name in (role, ALIASES.get(role)) if name is not None and name in names), None)


def resolve(columns: Columns, names: Sequence[str], where: str) -> dict[str, str]:
    """Which of `names` plays each role, and "group" if asked for; optional roles may lack. Raises DataError with what was found."""
    found = {role: find(role, wanted, names) for role, wanted in columns.names.items()}
    languages = [name for name in names if looks_like_a_language(name)]
    if not any(columns.names.values()) and not any(found.values()) and len(languages) == len(found) == 2:
        found = dict(zip(columns.roles, languages, strict=True))
    if columns.group is not None:
        found["group"] = columns.group if columns.group in names else None
    wanted = {**columns.names, "group": columns.group}
    for role, name in found.items():
        if name is None and not (role in columns.optional and wanted[role] is None):
            ask = wanted[role] or role
            guess = did_you_mean(ask, names)
            raise DataError(
                f'no field "{ask}" for the {role}',
                where=where,
                allowed=f"it has: {', '.join(_shown(name) for name in names) or 'no fields'}",
                fix=guess or f"name it with data.{role}",
            )
    chosen = {role: name for role, name in found.items() if name is not None}
    played = [chosen[role] for role in columns.roles if role in chosen]
    for name in played:
        if played.count(name) > 1:
            both = " and ".join(role for role in columns.roles if chosen.get(role) == name)
            raise DataError(f'{both} are both the field "{name}"', where=where, fix="name two fields")
    return chosen


def from_rows(
    rows: Iterable[tuple[int, Mapping[str, object]]], file: str, columns: Columns, tally: Tally
) -> Iterator[Record]:
    """Rows of named values (a JSON object, a CSV or Parquet row) as records.

    A null is an empty text; a label or a group may be a whole number. Raises DataError for a field that is missing or
    is not text.
    """
    chosen: dict[str, str] = {}
    for line, row in rows:
        try:
            nested = row.get("translation")
            if isinstance(nested, Mapping):
                row = {**row, **nested}
            if not chosen or any(name not in row for name in chosen.values()):
                chosen = resolve(columns, list(row), f"{file}:{line}")
            record = _from_row(row, chosen, file, line, columns)
        except DataError as error:
            tally.refuse(error)
        else:
            yield finished(record, columns)


def _from_row(row: Mapping[str, object], chosen: Mapping[str, str], file: str, line: int, columns: Columns) -> Record:
    answers, start = None, -1
    if isinstance(value := row.get(chosen.get("answer", "")), Mapping | list):
        answers, start = _answers(value, file, line)
        row = {**row, chosen["answer"]: answers[0] if answers else ""}
    if columns.label_separator is not None and isinstance(row[chosen["label"]], list | tuple):
        row = {**row, chosen["label"]: _joined_labels(row[chosen["label"]], file, line)}
    fields = {role: as_text(row[name], role, name, file, line) for role, name in chosen.items()}
    group = fields.pop("group", None)
    return Record(fields, file, line, group, answers=answers or (), start=start)


def finished(record: Record, columns: Columns) -> Record:
    """The record with what follows from its fields: empty ones for roles that lack, its labels parted, its answers, its group."""
    for role in columns.optional:
        record.fields.setdefault(role, "")
    if columns.label_separator is not None:
        label = record.fields["label"]
        parted = label.split("\n") if "\n" in label else label.split(columns.label_separator)
        record.fields["label"] = "\n".join(dict.fromkeys(part.strip() for part in parted if part.strip()))
    if columns.roles == ANSWERS:
        if not record.answers and record.fields["answer"].strip():
            record.answers = (record.fields["answer"],)
        if record.group is None:
            record.group = hashlib.blake2b(record.fields["passage"].encode(), digest_size=8).hexdigest()
    return record


def _joined_labels(values: object, file: str, line: int) -> str:
    assert isinstance(values, list | tuple)
    return "\n".join(" ".join(as_text(value, "label", "label", file, line).split()) for value in values)


def _answers(value: Mapping[str, object] | list[object], file: str, line: int) -> tuple[tuple[str, ...], int]:
    """The texts of an answer as SQuAD nests it, {"text": […], "answer_start": […]} or [{"text", "answer_start"}, …] or texts,
    and where the first stands."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
    else:
        texts = [one.get("text") if isinstance(one, Mapping) else one for one in value]
        starts = [one.get("answer_start") if isinstance(one, Mapping) else -1 for one in value]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError("the answer is neither text nor SQuAD's", where=f"{file}:{line}",
                        allowed='"…", ["…"] or {"text": ["…"], "answer_start": [0]}')  # fmt: skip
    first = starts[0] if isinstance(starts, list) and starts else -1
    found = tuple(check_text(text, file, line) for text in texts)
    return found, first if isinstance(first, int) else -1


def as_text(value: object, role: str, name: str, file: str, line: int) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return check_text(value, file, line)
    if role in ("label", "group") and isinstance(value, bool | int):
        return str(value).lower()
    kind = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    several = role == "label" and isinstance(value, list)
    raise DataError(f'field "{_shown(name)}" is {kind.get(type(value), type(value).__name__)}, not text',
                    where=f"{file}:{line}", fix="set data.multi_label: true" if several else None)  # fmt: skip


def check_text(text: str, file: str, line: int) -> str:
    """text again, if it can be written as UTF-8 and holds no NUL."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise DataError(f"half of a surrogate pair (\\u{code:04x})", where=f"{file}:{line}",
                            fix="write the whole character") from None  # fmt: skip
    if "\0" in text:
        raise DataError("a NUL character", where=f"{file}:{line}", fix="remove it, or is this a binary file?")
    return text


def _shown(name: str) -> str:
    """A name that a message can hold: short, printable."""
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= 40 else name[:37] + "…"
