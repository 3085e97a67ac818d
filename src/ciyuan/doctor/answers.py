"""Questions whose answers are not where they are said to be, and conversations whose turns are out of order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ciyuan.data.readers import Record
from ciyuan.doctor.examining import Context, OneByOne, found
from ciyuan.doctor.findings import Finding


class Answers(OneByOne):
    def __init__(self, context: Context) -> None:
        pass

    def look(self, record: Record) -> Iterator[Finding]:
        passage, answer = record.fields["passage"], record.fields["answer"]
        if not answer.strip():
            return
        if answer.strip() not in passage:
            yield found("answer-missing", record, answer)
        elif record.start >= 0 and not passage.startswith(answer, record.start):
            there = passage[record.start : record.start + len(answer)]
            yield found("answer-offset", record, answer, f"at {record.start:,} stands {there[:60]!r}")


class Turns(OneByOne):
    def __init__(self, context: Context) -> None:
        pass

    def look(self, record: Record) -> Iterator[Finding]:
        note = disorder([role for role, _ in record.turns])
        if note:
            yield found("turns", record, " · ".join(f"{role}: {words[:30]}" for role, words in record.turns), note)
        elif any(not words.strip() for _, words in record.turns):
            yield found("turns", record, "", "a turn without words")


def disorder(roles: list[str]) -> str:
    """What is out of order, or empty.

    >>> disorder(["system", "user", "assistant"]), disorder(["user", "user", "assistant"])
    ('', 'two turns of user in a row')
    """
    if "system" in roles[1:]:
        return "a system message that is not first"
    said = [role for role in roles if role != "system"]
    if not said:
        return "nobody says anything"
    twice = next((one for one, other in itertools.pairwise(said) if one == other), None)
    if twice is not None:
        return f"two turns of {twice} in a row"
    if said[0] != "user":
        return f"begins with {said[0]}"
    return "" if said[-1] == "assistant" else f"ends with {said[-1]}"
